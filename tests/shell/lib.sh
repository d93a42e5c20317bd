# What the tests of the scripts share: cases that run one after the other, and a summary as cargo's. Sourced.
# shellcheck shell=bash
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
passed=0 failed=0

# case_of NAME: a shell function of that name, in a shell of its own; what it printed is shown when it fails.
# Cases build on one another: after a failure the rest is not tried.
case_of() {
  local log code
  if [ $failed != 0 ]; then
    echo "test $1 ... not run"
    return
  fi
  log=$(mktemp)
  # Not as a condition: the shell would go on after a failed command.
  (set -e; "$1") >"$log" 2>&1
  code=$?
  if [ $code = 0 ]; then
    echo "test $1 ... ok"
    passed=$((passed + 1))
  else
    echo "test $1 ... FAILED"
    sed 's/^/    /' "$log"
    failed=$((failed + 1))
  fi
  rm -f "$log"
}

summary() {
  echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored"
  [ $failed = 0 ]
}

fail() { echo "failed: $*" >&2; exit 1; }
# refused PATTERN COMMAND…: fails, and says so in these words.
refused() {
  local pattern=$1 said
  shift
  if said=$("$@" 2>&1); then fail "$* should have failed"; fi
  grep -qE -- "$pattern" <<<"$said" || fail "$* said: $said"
}
# eventually COMMAND…: polled for half a minute and more.
eventually() {
  local until=$((SECONDS + 60))
  until "$@"; do [ $SECONDS -lt $until ] || fail "waited in vain for: $*"; sleep 0.2; done
}
