# One local cluster: its processes, namespaces and files. Sourced by up.sh after common.sh.
# shellcheck shell=bash
#
# A cluster is told apart by its API port: bridge, namespaces, cgroup root, nft table and runtime
# directories all carry it in their names, so that several run side by side.

# load_cluster DIR: fills in the cluster's settings, from DIR/settings once it exists.
load_cluster() {
  DIR=$1
  API_PORT=6443 REGISTRY_PORT=5000 SUBNET=172.31.64 NODES=2
  # shellcheck disable=SC1091
  [ -e "$DIR/settings" ] && . "$DIR/settings"
  keep_setting --port API_PORT "${WANT_PORT:-}"
  keep_setting --registry-port REGISTRY_PORT "${WANT_REGISTRY_PORT:-}"
  keep_setting --subnet SUBNET "${WANT_SUBNET:-}"
  BRIDGE=crcl$API_PORT
  GATEWAY=$SUBNET.1
  RUNTIME=/run/crcl$API_PORT
  OWNER=/run/crcl$API_PORT.owner
  REGISTRY=$GATEWAY:$REGISTRY_PORT
  TABLE=crcl$API_PORT
  CGROUP=/crcl$API_PORT
}

# keep_setting OPTION NAME WANTED: a running cluster's names and addresses cannot change under it.
keep_setting() {
  local now=${!2}
  [ -n "$3" ] && [ "$3" != "$now" ] || return 0
  [ ! -e "$DIR/settings" ] || die "this cluster has $1 $now, not $3: another needs another --dir (or scripts/up.sh --down first)"
  printf -v "$2" %s "$3"
}

save_settings() {
  printf 'API_PORT=%s\nREGISTRY_PORT=%s\nSUBNET=%s\nNODES=%s\n' "$API_PORT" "$REGISTRY_PORT" "$SUBNET" "$NODES" >"$DIR/settings.new"
  mv "$DIR/settings.new" "$DIR/settings"
}

# The names on this machine belong to one directory; whose they are outlives a removed directory.
owner() { cat "$OWNER" 2>/dev/null || true; }
claim_names() {
  local other
  other=$(owner)
  if [ -n "$other" ] && [ "$other" != "$DIR" ] && [ -e "$other/settings" ]; then
    die "port $API_PORT belongs to the cluster in $other: choose another with --port (and --registry-port, --subnet), or: scripts/up.sh --dir '$other' --down"
  fi
  printf '%s\n' "$DIR" >"$OWNER"
}

node_ip() { echo "$SUBNET.$((10 + ${1#agent-}))"; }
netns_of() { echo "$BRIDGE-$1"; }
nodes() { local i; for ((i = 1; i <= NODES; i++)); do echo "agent-$i"; done; }
names() { echo registry; echo server; nodes; }

# ---- the host's side of the network ----

# What sysctls held before the first cluster of this machine; the last one to go puts them back.
SYSCTLS=/run/crcl-sysctls

set_sysctl() {
  local file=/proc/sys/${1//.//} old
  old=$(cat "$file")
  [ "$old" = "$2" ] && return
  grep -qs "^$1=" "$SYSCTLS" || echo "$1=$old" >>"$SYSCTLS"
  echo "$2" >"$file"
}

restore_sysctls() {
  local line
  [ -e "$SYSCTLS" ] || return 0
  ! ip -o link show type bridge | grep -qE '^[0-9]+: crcl[0-9]+:' || return 0
  while read -r line; do echo "${line#*=}" >"/proc/sys/$(tr . / <<<"${line%%=*}")" || true; done <"$SYSCTLS"
  rm -f "$SYSCTLS"
}

network_up() {
  if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
    if ip -4 addr | grep -qF "inet $SUBNET."; then
      die "the network $SUBNET.0/24 is in use on this machine: choose another with --subnet A.B.C"
    fi
    ip link add "$BRIDGE" type bridge
  fi
  ip addr replace "$GATEWAY/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  set_sysctl net.ipv4.ip_forward 1
  nft -f - <<RULES
table ip $TABLE
delete table ip $TABLE
table ip $TABLE {
  chain postrouting {
    type nat hook postrouting priority 100;
    ip saddr $SUBNET.0/24 ip daddr != $SUBNET.0/24 masquerade
  }
}
RULES
  pass_firewall
}

# firewall_rules COMMAND: the rules that let the bridge through where a firewall (Docker's, ufw's) drops by policy.
firewall_rules() {
  iptables -w "$1" INPUT -i "$BRIDGE" -j ACCEPT
  iptables -w "$1" FORWARD -i "$BRIDGE" -j ACCEPT
  iptables -w "$1" FORWARD -o "$BRIDGE" -j ACCEPT
}

# pass_firewall: an accept in a table of one's own does not override another table's drop.
pass_firewall() {
  command -v iptables >/dev/null || return 0
  iptables -w -S 2>/dev/null | grep -qE '^-P (INPUT|FORWARD) DROP' || return 0
  firewall_rules -C >/dev/null 2>&1 || firewall_rules -I
}

firewall_leftovers() { command -v iptables >/dev/null && iptables -w -S 2>/dev/null | grep -E -- "-[io] $BRIDGE " || true; }

unpass_firewall() {
  [ -n "$(firewall_leftovers)" ] || return 0
  firewall_rules -D >/dev/null 2>&1 || true
}

node_network_up() {
  local node=$1 ns link
  ns=$(netns_of "$node")
  link=$BRIDGE-${node#agent-}
  # A file of the name may be left from a start that was cut off, with no namespace behind it.
  if ! ip -n "$ns" link show lo >/dev/null 2>&1; then
    ip netns del "$ns" 2>/dev/null || true
    ip netns add "$ns"
  fi
  ip -n "$ns" link set lo up
  if ! ip -n "$ns" link show eth0 >/dev/null 2>&1; then
    ip link del "$link" 2>/dev/null || true
    ip link add "$link" type veth peer name eth0 netns "$ns"
  fi
  ip link set "$link" master "$BRIDGE" up
  ip -n "$ns" addr replace "$(node_ip "$node")/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route replace default via "$GATEWAY"
}

# ---- processes ----

pid_of() { cat "$DIR/run/$1.pid" 2>/dev/null; }

program_of() {
  case $1 in
    registry) echo docker-registry ;;
    server) echo coracle-server ;;
    *) echo coracle-agent ;;
  esac
}

# running NAME: its pid names its program (and not a later process with the same number).
running() {
  local pid exe
  pid=$(pid_of "$1") || return 1
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
  # A program that was replaced meanwhile goes on from its deleted file.
  [ "${exe% (deleted)}" = "$DIR/bin/$(program_of "$1")" ] || return 1
  case $1 in agent-*) grep -zqxF -- "$DIR/$1" "/proc/$pid/cmdline" 2>/dev/null ;; esac
}

joined() { [ -e "$DIR/$1/identity/certificate.1" ] || [ -e "$DIR/$1/identity/certificate.2" ]; }

command_of() {
  local node=$1 args=() line
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
      # Only the first start joins.
      if ! joined "$node"; then
        line=$(join_line) || return 1
        args+=(--join "$line")
      fi
      mapfile -t -O ${#args[@]} args < <(split_args "$DIR/agent-args")
      ;;
  esac
  printf '%s\n' "${args[@]}"
}

split_args() { [ -s "$1" ] && xargs -n1 printf '%s\n' <"$1"; }
join_line() { timeout 20 "$DIR/bin/coracle" --kubeconfig "$DIR/kubeconfig" token create --ttl 1h --uses 1; }

# command_is_current NAME: as DIR/run/NAME.cmd says, unless arguments changed since, the directory was
# moved, or the agent never joined with the token that is in there.
command_is_current() {
  local cmd=$DIR/run/$1.cmd args=$DIR/agent-args
  [ "$1" = server ] && args=$DIR/server-args
  [ -s "$cmd" ] && [ ! "$args" -nt "$cmd" ] || return 1
  case $(head -n 1 "$cmd") in "$DIR/bin/"*) ;; *) return 1 ;; esac
  case $1 in agent-*) joined "$1" ;; esac
}

# start NAME: nothing when it runs; otherwise as DIR/run/NAME.cmd says, which is made on the first start.
start() {
  local name=$1 cmd program
  running "$name" && return 0
  program=$DIR/bin/$(program_of "$name")
  [ -x "$program" ] || { say "$program is missing: scripts/up.sh builds it"; return 1; }
  mkdir -p "$DIR/run" "$DIR/log"
  if ! command_is_current "$name"; then
    command_of "$name" >"$DIR/run/$name.cmd.new" || { say "$name cannot join: the server has to run (scripts/up.sh --start server)"; return 1; }
    mv "$DIR/run/$name.cmd.new" "$DIR/run/$name.cmd"
  fi
  mapfile -t cmd <"$DIR/run/$name.cmd"
  case $name in
    agent-*)
      node_network_up "$name" || return 1
      mkdir -p "$RUNTIME/$name" "$DIR/$name"
      cmd=(nsenter --net="/run/netns/$(netns_of "$name")" -- "${cmd[@]}")
      ;;
  esac
  # Descriptors of the caller, its locks above all, stay out of a process that outlives it.
  setsid "${cmd[@]}" </dev/null >>"$DIR/log/$name.log" 2>&1 7>&- 8>&- 9>&- &
  local pid=$! tries
  echo "$pid" >"$DIR/run/$name.pid"
  for ((tries = 0; tries < 200; tries++)); do
    running "$name" && return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  rm -f "$DIR/run/$name.pid"
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

# forget_the_dead: a pid file of what was killed says nothing any more.
forget_the_dead() {
  local name
  for name in $(names); do running "$name" || rm -f "$DIR/run/$name.pid"; done
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
  for ((tries = 0; tries < 200; tries++)); do
    pids=$(pod_pids; own_pids)
    [ -z "$pids" ] && break
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  unmount_below "$RUNTIME"
  unmount_below "$DIR"
  rm -rf --one-file-system "$RUNTIME"
}

# mounts_below PATH: mount points as the kernel lists them, its octal escapes taken out.
mounts_below() {
  local mount
  while read -r _ mount _; do
    mount=$(printf '%b' "${mount//\\/\\0}")
    case $mount in "$1" | "$1"/*) printf '%s\n' "$mount" ;; esac
  done </proc/mounts
}

unmount_below() {
  local mount
  mounts_below "$1" | sort -r | while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
}

links() { ip -o link | sed -nE "s/^[0-9]+: ($BRIDGE(-[0-9]+)?)[@:].*/\1/p"; }
namespaces() { ip netns list 2>/dev/null | awk -v p="$BRIDGE-" 'index($1, p) == 1 {print $1}'; }

stop_all() {
  local name link
  for name in $(nodes) server registry; do stop "$name"; done
  stop_pods
  # The kernel takes a namespace apart in its own time: the link goes first, so that its name is free.
  for link in $(links); do [ "$link" = "$BRIDGE" ] || ip link del "$link" 2>/dev/null || true; done
  for name in $(namespaces); do ip netns del "$name" 2>/dev/null || true; done
}

# ---- taking it all away ----

# sweep: everything of this cluster that is not in its directory.
sweep() {
  local dir tries
  stop_all
  ip link del "$BRIDGE" 2>/dev/null || true
  nft delete table ip "$TABLE" 2>/dev/null || true
  unpass_firewall
  for ((tries = 0; tries < 100; tries++)); do
    for dir in $(cgroup_dirs); do find "$dir" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
    # A killed process leaves its group only when the kernel is done with it.
    [ -n "$(cgroup_dirs)" ] || break
    sleep 0.1
  done
  restore_sysctls
}

down() {
  sweep
  # The settings go last: they say what the rest was called.
  files_but_bin ! -name settings -exec rm -rf --one-file-system {} + 2>/dev/null || true
  local left
  left=$(left_behind)
  if [ -n "$left" ]; then
    say "left behind:"
    say "$left"
    return 1
  fi
  rm -f "$OWNER" "$DIR/settings"
}

files_but_bin() { find "$DIR" -mindepth 1 -maxdepth 1 ! -name bin "$@"; }

left_behind() {
  local pid
  for pid in $(own_pids; pod_pids); do echo "process $pid ($(readlink "/proc/$pid/exe"))"; done
  { mounts_below "$RUNTIME"; mounts_below "$DIR"; } | sed 's/^/mount /'
  namespaces | sed 's/^/namespace /'
  cgroup_dirs | sed 's/^/cgroup /'
  links | sed 's/^/link /'
  nft list tables 2>/dev/null | grep -w "$TABLE" || true
  firewall_leftovers | sed 's/^/firewall rule /'
  [ ! -e "$RUNTIME" ] || echo "directory $RUNTIME"
  files_but_bin ! -name settings | sed 's/^/file /'
}
