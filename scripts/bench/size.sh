# size: the stripped static aarch64 programs, in MB of a million bytes.
# shellcheck shell=bash

bench_size() {
  local program target
  while read -r program target; do
    local file=$DIST/aarch64/$program
    [ -x "$file" ] || die "$file is missing: run scripts/bench.sh --prepare"
    emit "size/$program" "$(calculate "$(stat -c %s "$file") / 1e6")" MB le "$target" null "$file"
  done <<'END'
coracle-server 6
coracle-agent 4
coracle-pause 0.4
coracle 3
END
}
