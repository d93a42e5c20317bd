#!/usr/bin/env bash
# deps.sh: what is linked in: licences that may be, no tokio runtime, no crate twice without a reason.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"
need_rust

allowed='MIT|Apache-2.0|BSD-2-Clause|BSD-3-Clause|MPL-2.0|ISC|Zlib|Unlicense|CC0-1.0|0BSD|BSL-1.0|Unicode-3.0|CDLA-Permissive-2.0|MIT-0|Apache-2.0 WITH LLVM-exception|Apache-2.0/MIT|MIT/Apache-2.0|Unlicense/MIT'

# A crate passes when one alternative of its expression is allowed in all its parts.
bad=$(cargo tree --locked --workspace --edges normal,build --prefix none --format '{p} | {l}' | sed 's, (\*)$,,' | sort -u | awk -F' [|] ' -v allowed="$allowed" '
  BEGIN { n = split(allowed, a, "|"); for (i = 1; i <= n; i++) ok[a[i]] = 1 }
  { expression = $2; gsub(/[()]/, "", expression); pass = 0
    m = split(expression, alternatives, / OR |\//)
    for (i = 1; i <= m; i++) {
      k = split(alternatives[i], parts, / AND /); all = 1
      for (j = 1; j <= k; j++) { gsub(/^ +| +$/, "", parts[j]); if (!(parts[j] in ok)) all = 0 }
      if (all) pass = 1
    }
    if (!pass) print $0
  }')
[ -z "$bad" ] || die "licences that may not be linked in:"$'\n'"$bad"

# tokio may appear for its synchronisation types only: no runtime, no reactor, no timers.
features=$(cargo tree --locked --workspace --edges features,normal --prefix none | sed -nE 's/^tokio feature "([^"]+)".*/\1/p' | sort -u)
for feature in $features; do
  case $feature in default | sync | io-util | bytes) ;; *) die "tokio feature \"$feature\" is in the tree: cargo tree -e features -i tokio" ;; esac
done
cargo tree --locked --workspace --edges normal -i mio >/dev/null 2>&1 && die "mio is in the tree: cargo tree -i mio"

duplicates=$(cargo tree --locked --workspace --edges normal --duplicates --prefix none --depth 0 | awk '{print $1, $2}' | sort -u | awk '{print $1}' | uniq -d)
known=$(sed -n 's/^\([a-z0-9_-]*\)[[:space:]].*/\1/p' scripts/duplicates.txt 2>/dev/null | sort -u)
new=$(comm -23 <(printf '%s\n' "$duplicates") <(printf '%s\n' "$known") | grep . || true)
[ -z "$new" ] || die "crates in several versions, not named with a reason in scripts/duplicates.txt:"$'\n'"$new"
say "dependencies: licences, runtimes and duplicates as they may be"
