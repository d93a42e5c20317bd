#!/usr/bin/env bash
# test.sh: installs what the tests need, builds once and runs everything.
#   --quick    what a commit needs: no virtual machines, no clusters; incremental, within four minutes
#   --mutants  applies each patch of tests/mutants and names the test that notices
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"

mode=all
case ${1:-} in
  '') ;;
  --quick) mode=quick ;;
  --mutants) exec bash scripts/mutants.sh ;;
  -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
  *) die "unknown argument: $1 (--quick, --mutants)" ;;
esac

results=$(mktemp)
trap 'rm -f "$results"' EXIT

section() { printf '\n==== %s (%d s)\n' "$1" $SECONDS; }

section "packages"
[ "$(id -u)" = 0 ] || die "the tests make namespaces, cgroups and mounts: run them as root"
install_packages gcc libc6-dev ca-certificates iproute2 nftables busybox-static skopeo umoci docker-registry xz-utils tar gzip procps
need_rust

section "format and lints"
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings

section "build"
cargo build --locked --workspace --all-targets

section "licences and runtimes"
bash scripts/deps.sh

# run_tests NAME COMMAND…: its output is shown and kept for the counts.
run_tests() {
  section "$1"
  shift
  "$@" 2>&1 | tee -a "$results"
}

suites=(shared images store controllers scheduler server agent pause tidy)
run_tests "unit and node tests" cargo test --locked --workspace --no-fail-fast
if [ $mode = all ]; then
  for script in tests/e2e/*.sh; do run_tests "$(basename "$script" .sh)" bash "$script"; done
fi

section "summary"
awk -v mode=$mode '
  /^test result:/ { passed += $4; failed += $6; ignored += $8; runs++ }
  END {
    printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored
    exit !(passed > 0 && failed == 0 && ignored == 0)
  }' "$results" || die "tests failed, were ignored, or none ran"
