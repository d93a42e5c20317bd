# What the benchmarks share: lines of figures, a disk and a cluster of their own. Sourced by bench.sh.
# shellcheck shell=bash

DIST=$ROOT/dist
PROGRAMS=$DIST/x86_64
TOOLS=$DIST/bench
BENCH=$TOOLS/coracle-bench

# ---- clearing up, in reverse order, whatever happened ----

CLEANUPS=()
# at_exit COMMAND…: runs when the benchmark ends.
at_exit() { CLEANUPS+=("$(printf '%q ' "$@")"); }
clean_up() {
  local code=$? i
  trap - EXIT
  set +e
  for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do
    eval "${CLEANUPS[i]}" >&2 || code=1
  done
  exit "$code"
}

# work_dir: WORK is a directory on a disk, removed at the end. Memory is no disk.
work_dir() {
  local base=${BENCH_DIR:-$DIST}
  case $(stat -f -c %T "$base") in
    tmpfs | ramfs) die "$base is in memory: set BENCH_DIR to a directory on a disk" ;;
  esac
  WORK=$(mktemp -d "$base/work.XXXXXX")
  at_exit rm -rf --one-file-system "$WORK"
}

# ---- figures ----

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

# emit NAME VALUE UNIT le|ge TARGET REFERENCE PROGRAM: one line. TARGET is in the unit of VALUE; it and
# REFERENCE may be null.
emit() {
  awk -v name="$1" -v value="$2" -v unit="$3" -v how="$4" -v target="$5" -v reference="$6" -v sha="$(sha256_of "$7")" '
    function number(x) { return x == "null" ? x : sprintf("%.6g", x) }
    BEGIN {
      if (value !~ /^-?[0-9]/ || target !~ /^(-?[0-9]|null)/ || reference !~ /^(-?[0-9]|null)/) {
        print name ": measured " value ", target " target ", reference " reference > "/dev/stderr"
        exit 1
      }
      ratio = (reference == "null" || reference + 0 == 0) ? "null" : number(value / reference)
      ok = (target == "null" || (how == "le" ? value + 0 <= target + 0 : value + 0 >= target + 0)) ? "true" : "false"
      printf "{\"name\":\"%s\",\"value\":%s,\"unit\":\"%s\",\"target\":%s,\"reference\":%s,\"ratio\":%s,\"ok\":%s,\"sha256\":\"%s\"}\n",
        name, number(value), unit, number(target), number(reference), ratio, ok, sha
    }'
}

calculate() { awk "BEGIN { printf \"%.9g\", $1 }"; }

# figure NAME FILE: the value on the line `NAME VALUE` that coracle-bench printed.
figure() {
  awk -v name="$1" '$1 == name { print $2; found = 1; exit } END { exit !found }' "$2" || die "no figure $1 in: $(cat "$2")"
}

# median FILE COLUMN: of a file of numbers, a row a line.
median() { sort -g -k"$2,$2" "$1" | awk -v c="$2" '{ v[NR] = $c } END { if (!NR) exit 1; print v[int((NR + 1) / 2)] }'; }

# json_value NAME FILE: the value of the line with that name, of programs that print JSON.
json_value() {
  sed -nE 's/.*"name": ?"'"${1//\//\\/}"'".*"value": ?([-0-9.e+]+).*/\1/p' "$2" | grep . || die "no figure $1 in: $(cat "$2")"
}

# ---- a disk of the benchmark's own, whose counters show all that reaches it ----

DISK_MEBIBYTES=1536

# disk_up: an ext4 on a loop device, mounted at DISK. Every block of its file is written before, so that
# the file system below has nothing left to allocate.
disk_up() {
  DISK=$WORK/disk
  make_disk "$WORK/disk.img"
}

# second_disk: another one; DISK and LOOP name the newest.
second_disk() {
  DISK=$WORK/disk-2
  make_disk "$WORK/disk-2.img"
}

make_disk() {
  local image=$1
  dd if=/dev/zero of="$image" bs=1M count=$DISK_MEBIBYTES conv=fsync status=none
  mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$image"
  LOOP=$(losetup --find --show "$image")
  at_exit losetup --detach "$LOOP"
  mkdir "$DISK"
  mount -t ext4 "$LOOP" "$DISK"
  at_exit umount "$DISK"
  disk_proof
}

# written: bytes that reached the disk so far (written_to LOOP: one of two). flushes: its cache flushes, one or more for a sync.
written_to() { awk '{ printf "%.0f\n", $7 * 512 }' "/sys/block/${1#/dev/}/stat"; }
written() { written_to "$LOOP"; }
flushes() { awk '{ print $16 + 0 }' "/sys/block/${LOOP#/dev/}/stat"; }

# disk_proof: the counters have to show a known write of 8 MiB, and little else.
disk_proof() {
  local known=$((8 << 20)) before seen
  sync -f "$DISK"
  before=$(written)
  dd if=/dev/urandom of="$DISK/known" bs=1M count=8 conv=fsync status=none
  seen=$(($(written) - before))
  [ $seen -ge $known ] && [ $seen -le $((known + (1 << 20))) ] ||
    die "the disk's counters show $seen bytes for a write of $known"
  rm "$DISK/known"
  sync -f "$DISK"
}

# ---- a cluster of the benchmark's own, beside whatever runs ----

free_port() {
  local port tries
  for ((tries = 0; tries < 100; tries++)); do
    port=$((20000 + RANDOM % 10000))
    ss -Hltun "sport = :$port" | grep -q . || { echo $port; return; }
  done
  die "no free port found"
}

free_subnet() {
  local third
  for third in {100..200}; do
    ip -4 route | grep -q "172\.31\.$third\." || { echo "172.31.$third"; return; }
  done
  die "no free network found in 172.31.100.0 to 172.31.200.0"
}

# cluster_up [NODES] [BASE] [OPTION…]: CLUSTER, its KUBECONFIG, REGISTRY, and the programs that run it.
cluster_up() {
  local nodes=${1:-1} base=${2:-$WORK} port
  [ $# -lt 2 ] && shift $# || shift 2
  port=$(free_port)
  CLUSTER=$base/cluster
  mkdir -p "$CLUSTER/bin"
  if [ -x "$TOOLS/kubectl" ]; then cp "$TOOLS/kubectl" "$CLUSTER/bin/"; fi
  at_exit bash "$ROOT/scripts/up.sh" --dir "$CLUSTER" --down
  bash "$ROOT/scripts/up.sh" --dir "$CLUSTER" --port "$port" --registry-port "$(free_port)" --subnet "$(free_subnet)" \
    --nodes "$nodes" --no-demo --bin "$PROGRAMS" "$@" >&2
  KUBECONFIG=$CLUSTER/kubeconfig
  export KUBECONFIG
  REGISTRY=$(sed -nE 's/.*"registry":"([^"]*)".*/\1/p' "$CLUSTER/info.json")
  # shellcheck disable=SC2034
  SERVER=$CLUSTER/bin/coracle-server
  # shellcheck disable=SC2034
  AGENT=$CLUSTER/bin/coracle-agent
  # A pause runs from memory.
  # shellcheck disable=SC2034
  PAUSE=/memfd:coracle-pause CGROUP=crcl$port
}

# push NAME: one of the prepared images into the cluster's registry; prints its reference.
push() {
  skopeo copy --quiet --dest-tls-verify=false "oci:$TOOLS/images/$1:1" "docker://$REGISTRY/bench/$1:1" >&2
  echo "$REGISTRY/bench/$1:1"
}

# keep_pods COUNT IMAGE [OPTION…]: pods that stay until the cluster goes; the image is on the node afterwards.
keep_pods() {
  local count=$1 image=$2
  shift 2
  "$BENCH" pod-storm --kubeconfig "$KUBECONFIG" --image "$image" --pods "$count" --keep "$@" >&2
}
