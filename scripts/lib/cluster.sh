# One local cluster: its processes, namespaces and files. Sourced by up.sh after common.sh.
# shellcheck shell=bash
#
# A cluster is told apart by its API port: bridge, namespaces, cgroup root, nft table and runtime
# directories all carry it in their names, so that several run side by side.

# load_cluster DIR: fills in the cluster's settings, from DIR/settings once it exists.
load_cluster() {
  DIR=$1
  API_PORT=${API_PORT:-6443} REGISTRY_PORT=${REGISTRY_PORT:-5000} SUBNET=${SUBNET:-172.31.64}
  # shellcheck disable=SC1091
  [ -e "$DIR/settings" ] && . "$DIR/settings"
  BRIDGE=crcl$API_PORT
  GATEWAY=$SUBNET.1
  RUNTIME=/run/crcl$API_PORT
  REGISTRY=$GATEWAY:$REGISTRY_PORT
  TABLE=crcl$API_PORT
  CGROUP=/crcl$API_PORT
}

save_settings() {
  printf 'API_PORT=%s\nREGISTRY_PORT=%s\nSUBNET=%s\nNODES=%s\n' "$API_PORT" "$REGISTRY_PORT" "$SUBNET" "$NODES" >"$DIR/settings"
}

node_ip() { echo "$SUBNET.$((10 + ${1#agent-}))"; }
netns_of() { echo "$BRIDGE-$1"; }
nodes() { local i; for ((i = 1; i <= NODES; i++)); do echo "agent-$i"; done; }
names() { echo registry; echo server; nodes; }

# ---- the host's side of the network ----

# set_sysctl KEY VALUE: remembers what was there, for --down.
set_sysctl() {
  local file=/proc/sys/${1//.//} old
  old=$(cat "$file")
  [ "$old" = "$2" ] && return
  grep -qs "^$1=" "$DIR/sysctls" || echo "$1=$old" >>"$DIR/sysctls"
  echo "$2" >"$file"
}

network_up() {
  if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
    if ip -4 addr | grep -q "inet $SUBNET\."; then
      die "the network $SUBNET.0/24 is in use on this machine: choose another with --subnet A.B.C"
    fi
    ip link add "$BRIDGE" type bridge
  fi
  ip addr replace "$GATEWAY/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  set_sysctl net.ipv4.ip_forward 1
  nft -f - <<EOF
table ip $TABLE
delete table ip $TABLE
table ip $TABLE {
  chain postrouting {
    type nat hook postrouting priority 100;
    ip saddr $SUBNET.0/24 ip daddr != $SUBNET.0/24 masquerade
  }
}
EOF
}

node_network_up() {
  local node=$1 ns link
  ns=$(netns_of "$node")
  link=$BRIDGE-${node#agent-}
  ip netns list | grep -qw "$ns" || ip netns add "$ns"
  ip -n "$ns" link set lo up
  if ! ip -n "$ns" link show eth0 >/dev/null 2>&1; then
    ip link add "$link" type veth peer name eth0 netns "$ns"
    ip link set "$link" master "$BRIDGE" up
  fi
  ip -n "$ns" addr replace "$(node_ip "$node")/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route replace default via "$GATEWAY"
}

# ---- processes ----

pid_of() { cat "$DIR/run/$1.pid" 2>/dev/null; }

# running NAME: its pid names a program of this cluster (and not a later process with the same number).
running() {
  local pid exe
  pid=$(pid_of "$1") || return 1
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
  case $exe in "$DIR/bin/"*) return 0 ;; *) return 1 ;; esac
}

command_of() {
  local node=$1 args=()
  case $1 in
    registry) args=("$DIR/bin/docker-registry" serve "$DIR/registry.yml") ;;
    server)
      args=("$DIR/bin/coracle-server" --state "$DIR/server" --listen "0.0.0.0:$API_PORT" --advertise "$GATEWAY"
        --kubeconfig "$DIR/kubeconfig" --registries "$DIR/registries.json")
      mapfile -t -O ${#args[@]} args < <(split_args "$DIR/server-args")
      ;;
    *)
      args=("$DIR/bin/coracle-agent" --state "$DIR/$node" --name "$node" --cgroup-root "$CGROUP"
        --runtime-dir "$RUNTIME/$node" --pause "$DIR/bin/coracle-pause" --registries "$DIR/registries.json")
      # Only the first start joins: an agent that has its identity ignores the line.
      local line
      line=$(join_line) || return 1
      args+=(--join "$line")
      mapfile -t -O ${#args[@]} args < <(split_args "$DIR/agent-args")
      ;;
  esac
  printf '%s\n' "${args[@]}"
}

split_args() { [ -s "$1" ] && xargs -n1 printf '%s\n' <"$1"; }
join_line() { "$DIR/bin/coracle" --kubeconfig "$DIR/kubeconfig" token create --ttl 1h --uses 1; }

# start NAME: nothing when it runs; otherwise as DIR/run/NAME.cmd says, which is made on the first start.
start() {
  local name=$1 cmd
  running "$name" && return 0
  [ -s "$DIR/run/$name.cmd" ] || { command_of "$name" >"$DIR/run/$name.cmd.new" && mv "$DIR/run/$name.cmd.new" "$DIR/run/$name.cmd"; }
  mapfile -t cmd <"$DIR/run/$name.cmd"
  case $name in
    agent-*)
      node_network_up "$name"
      mkdir -p "$RUNTIME/$name" "$DIR/$name"
      cmd=(nsenter --net="/run/netns/$(netns_of "$name")" -- "${cmd[@]}")
      ;;
  esac
  # Descriptors of the caller, its locks above all, stay out of a process that outlives it.
  setsid "${cmd[@]}" </dev/null >>"$DIR/log/$name.log" 2>&1 7>&- 8>&- 9>&- &
  echo $! >"$DIR/run/$name.pid"
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    running "$name" && return 0
    kill -0 "$(pid_of "$name")" 2>/dev/null || break
    sleep 0.05
  done
  say "$name did not start; its log ($DIR/log/$name.log) ends:"
  tail -n 20 "$DIR/log/$name.log" >&2
  return 1
}

# stop NAME: asks, waits ten seconds, insists.
stop() {
  local name=$1 pid tries
  if running "$name"; then
    pid=$(pid_of "$name")
    kill -TERM "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
      running "$name" || break
      sleep 0.1
    done
    running "$name" && kill -KILL "$pid"
    while running "$name"; do sleep 0.05; done
  fi
  rm -f "$DIR/run/$name.pid"
}

# Pods outlive their agent, so stopping everything ends them by their cgroups.
cgroup_dirs() {
  local own
  { echo /sys/fs/cgroup/unified "/sys/fs/cgroup"
    while IFS=: read -r _ controllers own; do
      [ -n "$controllers" ] && echo "/sys/fs/cgroup/${controllers#name=}$own"
    done </proc/self/cgroup
    ls -d /sys/fs/cgroup/*/ 2>/dev/null
  } | while read -r base; do [ -d "${base%/}$CGROUP" ] && echo "${base%/}$CGROUP"; done | sort -u
}

pod_pids() {
  local dir
  for dir in $(cgroup_dirs); do
    find "$dir" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -un
}

# What still runs of this cluster's own programs: the name server of a node outlives its agent.
own_pids() {
  local pid
  for pid in /proc/[0-9]*; do
    case $(readlink "$pid/exe" 2>/dev/null) in "$DIR/bin/"*) echo "${pid#/proc/}" ;; esac
  done
}

stop_pods() {
  local pids tries
  for ((tries = 0; tries < 100; tries++)); do
    pids=$(pod_pids; own_pids)
    [ -z "$pids" ] && break
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  unmount_below "$RUNTIME"
  unmount_below "$DIR"
  rm -rf "$RUNTIME"
}

unmount_below() {
  awk -v d="$1" '$2 == d || index($2, d "/") == 1 {print $2}' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$(printf '%b' "$mount")" 2>/dev/null || true; done
}

stop_all() {
  local name
  for name in $(nodes) server registry; do stop "$name"; done
  stop_pods
  local node
  for node in $(nodes); do
    # The kernel takes a namespace apart in its own time: the link goes first, so that its name is free.
    ip link del "$BRIDGE-${node#agent-}" 2>/dev/null || true
    ip netns del "$(netns_of "$node")" 2>/dev/null || true
  done
}

# ---- taking it all away ----

down() {
  stop_all
  ip link del "$BRIDGE" 2>/dev/null || true
  nft delete table ip "$TABLE" 2>/dev/null || true
  local dir line
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    for dir in $(cgroup_dirs); do find "$dir" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
    # A killed process leaves its group only when the kernel is done with it.
    [ -n "$(cgroup_dirs)" ] || break
    sleep 0.1
  done
  if [ -e "$DIR/sysctls" ]; then
    while read -r line; do echo "${line#*=}" >"/proc/sys/$(tr . / <<<"${line%%=*}")" || true; done <"$DIR/sysctls"
  fi
  find "$DIR" -mindepth 1 -maxdepth 1 ! -name bin -exec rm -rf {} +
  local left
  left=$(left_behind)
  [ -z "$left" ] && return 0
  say "left behind:"
  say "$left"
  return 1
}

left_behind() {
  local pid
  for pid in $(own_pids; pod_pids); do echo "process $pid ($(readlink "/proc/$pid/exe"))"; done
  awk -v a="$RUNTIME" -v b="$DIR" 'index($2, a) == 1 || index($2, b "/") == 1 {print "mount " $2}' /proc/mounts
  ip netns list 2>/dev/null | awk -v p="$BRIDGE-" 'index($1, p) == 1 {print "namespace " $1}'
  cgroup_dirs | sed 's/^/cgroup /'
  ip -o link | awk -F': ' -v p="$BRIDGE" 'index($2, p) == 1 {print "link " $2}'
  nft list tables 2>/dev/null | grep -w "$TABLE" || true
  [ -e "$RUNTIME" ] && echo "directory $RUNTIME"
  find "$DIR" -mindepth 1 -maxdepth 1 ! -name bin | sed 's/^/file /'
}
