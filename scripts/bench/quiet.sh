# net-idle, flash-day, slow-card: what goes over the wire and onto flash, and what a slow card costs readers.
# shellcheck shell=bash

NET_SECONDS=${BENCH_NET_SECONDS:-300}
DAY=86400

# in_node COMMAND…: in the node's network namespace.
in_node() { nsenter --net="/proc/$(cat "$CLUSTER/run/agent-1.pid")/ns/net" -- "$@"; }

# count_wire: from now on the node's own packets from and to the other side are counted. What a local network
# says of itself (ARP, neighbours, routers) is not between server and agent.
count_wire() {
  in_node nft -f - <<END
table ip coracle-bench {
  chain in { type filter hook input priority 0; iifname "eth0" counter; }
  chain out { type filter hook output priority 0; oifname "eth0" counter; }
}
END
}

# wire: bytes of those packets so far, with Ethernet's header of each.
wire() {
  in_node nft list table ip coracle-bench |
    awk '{ for (i = 1; i < NF; i++) { if ($i == "packets") sum += 14 * $(i + 1); if ($i == "bytes") sum += $(i + 1) } } END { print sum + 0 }'
}

bench_net-idle() {
  local before after
  work_dir
  cluster_up
  keep_pods 10 "$(push small)" --shell "$IDLE_SHELL"
  sleep "$SETTLE_SECONDS"
  count_wire
  before=$(wire)
  sleep "$NET_SECONDS"
  after=$(wire)
  emit "net-idle/${NET_SECONDS}s" $((after - before)) B le null null "$AGENT"
  emit net-idle/day "$(calculate "($after - $before) * $DAY / $NET_SECONDS / 1e6")" MB/day le 0.6 null "$AGENT"
}

# A node's silence that counts, and how often and how long it is silent on the simulated day.
FLAP_GRACE=3
FLAPS=5

# flap: the agent is away for longer than its grace, and comes back.
flap() {
  local agent
  agent=$(cat "$CLUSTER/run/agent-1.pid")
  kill -KILL "$agent"
  sleep $((FLAP_GRACE + 2))
  bash "$ROOT/scripts/up.sh" --dir "$CLUSTER" --start agent-1 >&2
  sleep 2
}

# umount_if_mounted DIR: `up.sh --down` lets go of mounts below its state by itself.
umount_if_mounted() { ! mountpoint -q "$1" || umount "$1"; }

# The day in fast motion: what a real one would write together in minutes is written apart or together in
# seconds, so that volatile changes, which go to disk at long intervals, are counted once.
bench_flash-day() {
  local image server_loop agent_loop server_before agent_before turn
  work_dir
  # A disk for each: DISK and LOOP are the newest.
  disk_up
  server_loop=$LOOP
  mkdir -p "$DISK/cluster/agent-1"
  CLUSTER_DISK=$DISK
  second_disk
  agent_loop=$LOOP
  mount --bind "$DISK" "$CLUSTER_DISK/cluster/agent-1"
  at_exit umount_if_mounted "$CLUSTER_DISK/cluster/agent-1"
  cluster_up 1 "$CLUSTER_DISK" --server-args "--node-grace $FLAP_GRACE"
  image=$(push small)
  keep_pods 1 "$image" --shell "$IDLE_SHELL"
  sleep 5
  sync
  server_before=$(written_to "$server_loop") agent_before=$(written_to "$agent_loop")
  "$BENCH" deployments --kubeconfig "$KUBECONFIG" --image "$image" --count 100 >&2
  "$BENCH" flips --kubeconfig "$KUBECONFIG" --pod keep-0 --count 1000 >&2
  for ((turn = 0; turn < FLAPS; turn++)); do flap; done
  sync -f "$CLUSTER_DISK"
  sync -f "$CLUSTER_DISK/cluster/agent-1"
  emit flash-day/server "$(calculate "($(written_to "$server_loop") - $server_before) / 1e6")" MB le 20 null "$SERVER"
  emit flash-day/agent "$(calculate "($(written_to "$agent_loop") - $agent_before) / 1e6")" MB le 10 null "$AGENT"
}

# throttle WRITES: the server gets so many writes a second from the disk.
throttle() {
  local root=/sys/fs/cgroup device
  device=$(cat "/sys/block/${LOOP#/dev/}/dev")
  if [ -e $root/blkio/blkio.throttle.write_iops_device ]; then
    THROTTLE=$root/blkio/coracle-bench-$$
    mkdir "$THROTTLE"
    echo "$device $1" >"$THROTTLE/blkio.throttle.write_iops_device"
  elif grep -qsw io $root/cgroup.controllers; then
    echo +io >$root/cgroup.subtree_control
    THROTTLE=$root/coracle-bench-$$
    mkdir "$THROTTLE"
    echo "$device wiops=$1" >"$THROTTLE/io.max"
  else
    die "this kernel throttles no disk: neither blkio (cgroup v1) nor io (v2) is there"
  fi
  at_exit rmdir "$THROTTLE"
  # Rooms are removed in reverse order: the server has left by then.
  at_exit end_process "$SERVER_PID"
  echo "$SERVER_PID" >"$THROTTLE/cgroup.procs"
}

CARD_WRITES=50
CARD_SECONDS=${BENCH_CARD_SECONDS:-20}

bench_slow-card() {
  local storm server=$PROGRAMS/coracle-server kind flushes_before rate
  work_dir
  disk_up
  server_up "$DISK/server"
  "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers 8 --writes 1000 --prefix few >&2
  "$BENCH" latency --kubeconfig "$WORK/kubeconfig" --seconds "$CARD_SECONDS" --prefix idle >"$WORK/idle"
  throttle $CARD_WRITES
  "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers 8 --writes 1000000 --prefix storm >/dev/null 2>&1 &
  storm=$!
  at_exit end_process $storm
  sleep 2
  flushes_before=$(flushes)
  "$BENCH" latency --kubeconfig "$WORK/kubeconfig" --seconds "$CARD_SECONDS" --prefix slow >"$WORK/slow"
  rate=$(calculate "($(flushes) - $flushes_before) / $CARD_SECONDS")
  end_process $storm
  cat "$WORK/idle" "$WORK/slow" >&2
  emit slow-card/flushes "$rate" 1/s le null null "$server"
  for kind in get watch; do
    local idle
    idle=$(figure ${kind}_p99_ms "$WORK/idle")
    emit slow-card/$kind-p99 "$(figure ${kind}_p99_ms "$WORK/slow")" ms le "$(calculate "$idle * 1.2")" "$idle" "$server"
    emit slow-card/$kind-p50 "$(figure ${kind}_p50_ms "$WORK/slow")" ms le null "$(figure ${kind}_p50_ms "$WORK/idle")" "$server"
  done
}
