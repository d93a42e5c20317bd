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
cluster=$ROOT/target/e2e
trap 'rm -f "$results"; [ ! -e "$cluster/settings" ] || bash scripts/up.sh --dir "$cluster" --down' EXIT

section() { printf '\n==== %s (%d s)\n' "$1" $SECONDS; }

section "packages"
[ "$(id -u)" = 0 ] || die "the tests make namespaces, cgroups and mounts: run them as root"
install_packages gcc libc6-dev ca-certificates iproute2 nftables busybox-static skopeo umoci docker-registry xz-utils tar gzip procps e2fsprogs util-linux
need_rust

section "format and lints"
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets --features faults -- -D warnings

section "build (with fault points, which no release has)"
cargo build --locked --workspace --all-targets --features faults

section "licences and runtimes"
bash scripts/deps.sh

target_dir() { echo "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# The system tests' cluster: beside whatever runs on this machine, from the programs just built.
cluster_up() {
  section "a cluster of two nodes"
  export CORACLE_E2E=$cluster CORACLE_KUBECTLS=$ROOT/target/kubectls
  local minor
  for minor in 1.20 1.32 1.36; do
    [ -x "$CORACLE_KUBECTLS/kubectl-$minor" ] || bash scripts/kubectl.sh "$minor" "$CORACLE_KUBECTLS/kubectl-$minor"
  done
  bash scripts/up.sh --dir "$cluster" --port 16443 --registry-port 15000 --subnet 172.31.65 --bin "$(target_dir)/debug"
}

cluster_down() {
  section "nothing is left behind"
  bash scripts/up.sh --dir "$cluster" --down
}

# run_tests NAME COMMAND…: its output is shown and kept for the counts; a suite that ran nothing has failed.
failed=()
run_tests() {
  local name=$1 own
  section "$name"
  shift
  own=$(mktemp)
  "$@" 2>&1 | tee "$own" || failed+=("$name")
  grep -qE '^test result: .* [1-9][0-9]* passed|^test result: ok\. [1-9]' "$own" || failed+=("$name (no test ran)")
  cat "$own" >>"$results"
  rm -f "$own"
}

# Virtual machines boot with a kernel of Debian's, which is kept under target/.
machines_prepare() {
  section "what virtual machines boot with"
  install_packages qemu-system-x86 qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross cpio kmod zstd e2fsprogs binutils dash util-linux debian-archive-keyring
  export CORACLE_VM=$ROOT/target/vm
  bash scripts/vm.sh amd64 "$CORACLE_VM/amd64"
  bash scripts/vm.sh arm64 "$CORACLE_VM/arm64"
  rustup target add aarch64-unknown-linux-musl
  cargo build --locked --profile board --target aarch64-unknown-linux-musl -p coracle-agent -p coracle-pause
  # The node's own suites, as they were just built, run in there too.
  CORACLE_NODE_SUITES=$(cargo test --locked --workspace --features faults --no-run 2>&1 |
    sed -nE 's#.*Executable tests/(runtime|network/main|node)\.rs \((.*)\)#\2#p' |
    while read -r suite; do realpath "$suite"; done | paste -sd' ')
  export CORACLE_NODE_SUITES
}

run_tests "unit and node tests" cargo test --locked --workspace --exclude coracle-tests --features faults --no-fail-fast
run_tests "shape of the source" cargo test --locked -p coracle-tests --features faults --test tidy
run_tests "session over loopback" cargo test --locked -p coracle-tests --features faults --test link
run_tests "the ledger on a failing disk" cargo test --locked -p coracle-tests --features faults --test ledger
run_tests "simulator" cargo test --locked -p coracle-tests --features faults --test sim -- --nocapture
if [ $mode = all ]; then
  cluster_up
  run_tests "clients and workloads" cargo test --locked -p coracle-tests --features faults --no-fail-fast --test clients --test workloads -- --test-threads=4
  run_tests "faults" cargo test --locked -p coracle-tests --features faults --no-fail-fast --test faults --test server -- --test-threads=1
  cluster_down
  run_tests "up.sh" bash tests/shell/up.sh "$(target_dir)/debug" "$ROOT/target/scripts"
  run_tests "install.sh" bash tests/shell/install.sh "$(target_dir)/debug" "$ROOT/target/install"
  machines_prepare
  # Two machines at a time; each ends with its test. The bound is for machines that emulate many times slower.
  run_tests "virtual machines" timeout -k 10 3600 cargo test --locked -p coracle-tests --features faults --no-fail-fast --test vm -- --test-threads=2 --nocapture
fi

section "summary"
awk '
  /^test result:/ { passed += $4; failed += $6; ignored += $8 }
  END {
    printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored
    exit !(passed > 0 && failed == 0 && ignored == 0)
  }' "$results" || failed+=("tests failed or were ignored")
[ ${#failed[@]} = 0 ] || die "failed: $(printf '%s; ' "${failed[@]}")"
