# container: `true` in a fresh container, by Coracle's runtime, crun and runc, with the same namespaces,
# mounts, seccomp filter and cgroup. Rounds alternate, so that all see the same machine.
# shellcheck shell=bash

ROUNDS=5
RUNS=20

# oci_bundle: a bundle as Coracle's runtime would make the container.
oci_bundle() {
  local calls
  calls=$(sed 's/.*/"&"/' "$TOOLS/seccomp.names" | paste -sd,)
  mkdir -p "$WORK/bundle"
  cat >"$WORK/bundle/config.json" <<END
{"ociVersion":"1.0.2","hostname":"bench","root":{"path":"$TOOLS/roots/bundle","readonly":false},
 "process":{"terminal":false,"user":{"uid":0,"gid":0},"args":["/bin/true"],"env":["PATH=/bin"],"cwd":"/","noNewPrivileges":true,
  "capabilities":{$(for set in bounding effective permitted; do printf '"%s":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FSETID","CAP_FOWNER","CAP_MKNOD","CAP_NET_RAW","CAP_SETGID","CAP_SETUID","CAP_SETFCAP","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_SYS_CHROOT","CAP_KILL","CAP_AUDIT_WRITE"],' $set; done | sed 's/,$//')}},
 "mounts":[
  {"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
  {"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
  {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
  {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
  {"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
  {"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=65536k"]},
  {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","ro"]}],
 "linux":{"cgroupsPath":"/coracle-bench/c",
  "namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"cgroup"}],
  "resources":{"memory":{"limit":67108864},"cpu":{"shares":102,"quota":100000,"period":100000},"pids":{"limit":100}},
  "maskedPaths":["/proc/acpi","/proc/asound","/proc/interrupts","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/sched_debug","/proc/scsi","/proc/timer_list","/sys/devices/virtual/powercap","/sys/firmware"],
  "readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"],
  "seccomp":{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
   "syscalls":[{"names":[$calls,"clone","socket","personality","arch_prctl"],"action":"SCMP_ACT_ALLOW"}]}}}
END
}

# without_hybrid COMMAND…: crun refuses a hybrid cgroup tree with v2 controllers; it gets the v1 part alone.
without_hybrid() {
  unshare --mount --propagation private sh -c '
    if grep -qs . /sys/fs/cgroup/unified/cgroup.controllers; then umount /sys/fs/cgroup/unified; fi
    exec "$@"' sh "$@"
}

remove_reference_cgroups() { find /sys/fs/cgroup -depth -type d -path '*coracle-bench*' -exec rmdir {} + 2>/dev/null || true; }

# own_runs [--stock]: milliseconds of each run, one a line: running, reaped, removed.
own_runs() {
  "$TOOLS/container_bench" --pause "$PROGRAMS/coracle-pause" --rootfs "$TOOLS/roots/bundle" --runs $RUNS "$@" |
    grep -oE '\[[0-9]+,[0-9]+,[0-9]+\]' | tr -d '[]' | awk -F, '{ print $1 / 1000, $2 / 1000, $3 / 1000 }'
}

bench_container() {
  local round engine pause=$PROGRAMS/coracle-pause
  work_dir
  oci_bundle
  at_exit remove_reference_cgroups
  for ((round = 0; round < ROUNDS; round++)); do
    own_runs >>"$WORK/own"
    own_runs --stock >>"$WORK/stock"
    for engine in crun runc; do
      without_hybrid "$BENCH" spawn --runs $RUNS -- $engine --root "$WORK/$engine-state" run --bundle "$WORK/bundle" "bench-$$-$round-@" >"$WORK/spawn"
      figure p50_ms "$WORK/spawn" >>"$WORK/$engine"
    done
    "$BENCH" spawn --runs $RUNS -- unshare --pid --net --ipc --uts --mount --cgroup --fork --mount-proc "$TOOLS/roots/bundle/bin/true" >"$WORK/spawn"
    figure p50_ms "$WORK/spawn" >>"$WORK/unshare"
  done
  local crun runc column=0 figure target
  crun=$(median "$WORK/crun" 1) runc=$(median "$WORK/runc" 1)
  # `crun run` returns when nothing is left, so `removed` is the like for like.
  for figure in running reaped removed; do
    column=$((column + 1))
    target=$(calculate "$crun / 3")
    [ $figure != running ] || target=null
    emit "container/$figure" "$(median "$WORK/own" $column)" ms le "$target" "$crun" "$pause"
    emit "container/$figure-stock" "$(median "$WORK/stock" $column)" ms le null "$crun" "$pause"
  done
  emit container/removed-runc "$(median "$WORK/own" 3)" ms le null "$runc" "$pause"
  emit container/unshare "$(median "$WORK/unshare" 1)" ms le null null /usr/bin/unshare
}
