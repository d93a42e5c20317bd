#!/usr/bin/env bash
# bench.sh: measures what is shipped. One JSON line a figure.
. "$(dirname "$0")/lib/common.sh"
for part in lib prepare size store container idle pods starts quiet; do . "$ROOT/scripts/bench/$part.sh"; done

NAMES=(size store-write write-amp container mem-server mem-agent mem-pod cpu-idle disk-idle pod-start pod-storm
  agent-restart server-start net-idle flash-day slow-card)

usage() {
  cat <<END
bench.sh: figures of the shipped x86-64 programs (size: of the aarch64 ones), one JSON line each.

  scripts/bench.sh --prepare   install packages, build, make images (needs a network; takes minutes)
  scripts/bench.sh NAME…       measure; as root, without a network, beside whatever runs
  scripts/bench.sh all         everything

Names: ${NAMES[*]}

A line holds name, value, unit, target (in the value's unit), reference (of another program, measured in
the same run, or null), ratio (value / reference), ok, and the sha256 of the program. A missed target is
ok:false and exit 0; a failed measurement is exit 1.

Settings, by environment: BENCH_DIR (a directory on the disk to use, default dist), BENCH_WRITES (20000),
BENCH_CPU_SECONDS (60), BENCH_IDLE_SECONDS (600; the line's name says how many it was), BENCH_NET_SECONDS (300),
BENCH_CARD_SECONDS (20).
END
}

# run NAME: in a process of its own, so that it clears up after itself whatever happens.
run() { bash "$ROOT/scripts/bench.sh" --one "$1"; }

one() {
  [ "$(id -u)" = 0 ] || die "benchmarks make namespaces, mounts and loop devices: run as root"
  [ -x "$BENCH" ] && [ -x "$PROGRAMS/coracle-server" ] || die "nothing is prepared: run scripts/bench.sh --prepare"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  "bench_$1"
}

[ $# -gt 0 ] || { usage >&2; exit 2; }
case $1 in
  -h | --help) usage; exit 0 ;;
  --prepare) prepare; exit 0 ;;
  --one) one "$2"; exit 0 ;;
  all) set -- "${NAMES[@]}" ;;
esac
for name in "$@"; do
  printf '%s\n' "${NAMES[@]}" | grep -qxF -- "$name" || die "no such benchmark: $name (there are: ${NAMES[*]})"
done
code=0
for name in "$@"; do
  run "$name" || { say "error: measuring $name failed"; code=1; }
done
exit $code
