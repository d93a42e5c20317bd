#!/usr/bin/env bash
# up.sh: from a fresh clone to a running cluster on this machine, with a demonstration.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/cluster.sh"

usage() {
  cat <<'EOF'
up.sh: a Coracle cluster on this machine, from a fresh clone, in one step.

  scripts/up.sh [options]         build what is missing, start what is not running, show that it serves
  scripts/up.sh --start NAME      start one: registry, server, agent-1, agent-2, …
  scripts/up.sh --stop NAME       stop one, its state and its pods kept
  scripts/up.sh --stop            stop everything, pods included, state kept
  scripts/up.sh --status [-o json]  what runs and serves; exits 0 only when all of it does
  scripts/up.sh --down            stop everything and take it away but for DIR/bin; lists what is left
                                  behind and exits 1 if anything is

Options of a start (kept for later ones):
  --nodes N            agents, each in a network namespace of its own (default 2; 0: a server alone)
  --server-args '…'    further arguments of coracle-server
  --agent-args '…'     further arguments of every coracle-agent
  --no-demo            without the demonstration
  --profile dev|release  how to build (default release)
  --bin PATH           use the programs in this directory instead of building
  --faults             build with fault points (for tests)
  --dir DIR            state of the cluster (default .coracle in the clone)
  --port PORT          the API's port (default 6443)
  --registry-port PORT the local image registry's port (default 5000)
  --subnet A.B.C       the /24 of the nodes (default 172.31.64)

Runs as root, on cgroup v1, hybrid and v2. Everything lies in DIR; /run/crclPORT holds sockets and mounts.
EOF
}

# Nothing of this comes from the caller's environment.
unset WANT_NODES WANT_PORT WANT_REGISTRY_PORT WANT_SUBNET SERVER_ARGS AGENT_ARGS
mode=up target='' prebuilt='' dir=$ROOT/.coracle demo='' profile='' faults='' json=no
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) WANT_NODES=${2:?--nodes needs a number}; shift ;;
    --server-args) SERVER_ARGS=${2?--server-args needs a value}; shift ;;
    --agent-args) AGENT_ARGS=${2?--agent-args needs a value}; shift ;;
    --no-demo) demo=no ;;
    --profile) profile=${2:?--profile needs dev or release}; shift ;;
    --faults) faults=yes ;;
    --bin) prebuilt=$(realpath "${2:?--bin needs a directory}"); shift ;;
    --dir) dir=$(realpath -m "${2:?--dir needs a directory}"); shift ;;
    --port) WANT_PORT=${2:?--port needs a number}; shift ;;
    --registry-port) WANT_REGISTRY_PORT=${2:?--registry-port needs a number}; shift ;;
    --subnet) WANT_SUBNET=${2:?--subnet needs the first three numbers of a /24}; shift ;;
    --start) mode=start target=${2:?--start needs a name}; shift ;;
    --stop)
      mode=stop target=all
      case ${2:-} in '' | -*) ;; *) target=$2; shift ;; esac
      ;;
    --status | --down) mode=${1#--} ;;
    -o) [ "${2:-}" = json ] || die "-o takes json"; json=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
  esac
  shift
done

# number OPTION VALUE MOST: a plain decimal number within its range, or not given.
number() {
  [[ -z $2 || $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || die "$1 takes a number, not ${2@Q}"
  [ "${2:-0}" -le "$3" ] || die "$1 is at most $3"
}
number --nodes "${WANT_NODES-}" 200 # they share one /24
number --port "${WANT_PORT-}" 65535
number --registry-port "${WANT_REGISTRY_PORT-}" 65535
[[ -z ${WANT_SUBNET-} || $WANT_SUBNET =~ ^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$ ]] || die "--subnet takes A.B.C, not ${WANT_SUBNET@Q}"
case $profile in '' | dev | release) ;; *) die "--profile is dev or release, not ${profile@Q}" ;; esac
[ -z "$prebuilt" ] || [ -x "$prebuilt/coracle-server" ] || die "--bin: there is no coracle-server in $prebuilt"
# Image references, PATH and JSON could not carry these.
case $dir in *[:\"\\]* | *$'\n'*) die "the path $dir has a colon, a quote, a backslash or a line break: use another --dir" ;; esac

# ---- building ----

# What was built is what is wanted, unless this run asks for something else; and it is newer than its sources.
bin_is_current() {
  [ -z "$prebuilt" ] || return 1
  local built_profile='' built_faults=''
  [ -x "$DIR/bin/coracle-agent" ] && read -r built_profile built_faults <"$DIR/bin/.built" || true
  profile=${profile:-${built_profile:-release}} faults=${faults:-$built_faults}
  [ "$built_profile" = "$profile" ] && [ "$built_faults" = "$faults" ] &&
    [ -z "$(find "$ROOT"/{Cargo.toml,Cargo.lock,rust-toolchain.toml,shared,images,server,agent} -newer "$DIR/bin/.built" \
      \( -name '*.rs' -o -name '*.toml' -o -name Cargo.lock -o -name '*.fields' \) -print -quit)" ]
}

build() {
  if [ -n "$prebuilt" ]; then
    install_programs "$prebuilt"
    return
  fi
  need_rust
  local args=(--locked -p coracle-server -p coracle-cli -p coracle-agent -p coracle-pause) out=debug
  [ "$profile" = release ] && args+=(--release) && out=release
  [ -n "$faults" ] && args+=(--features coracle-server/faults --features coracle-agent/faults)
  cd "$ROOT" || return 1
  as_user cargo build "${args[@]}"
  out=$(as_user cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/$out
  install_programs "$out"
}

install_programs() {
  local name
  for name in coracle-server coracle-agent coracle-pause coracle; do install_program "$1/$name" "$name"; done
  echo "${profile:-release} $faults" >"$DIR/bin/.built"
}

# install_program SOURCE NAME: a running program keeps its old file; the new one is for the next start.
install_program() {
  install -m 755 "$1" "$DIR/bin/$2.new"
  mv "$DIR/bin/$2.new" "$DIR/bin/$2"
}

fetch_kubectl() {
  bash "$ROOT/scripts/kubectl.sh" 1.32 "$DIR/bin/kubectl" || say "going on without kubectl: coracle does the daily work"
  touch "$DIR/bin/.kubectl-asked"
}

# ---- the demonstration ----

demo_image() {
  local work=$DIR/demo
  rm -rf "$work"
  mkdir -p "$work"/{base/bin,base/etc,base/tmp,content/www,serve/bin}
  install -m 755 "$(command -v busybox)" "$work/base/bin/busybox"
  local applet
  for applet in sh cat echo ls ps id hostname httpd wget nslookup sleep mkdir kill; do ln -s busybox "$work/base/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$work/base/etc/passwd"
  chmod 1777 "$work/base/tmp"
  echo '<h1>Coracle</h1>' >"$work/content/www/about.html"
  install -m 755 "$ROOT/scripts/demo/serve.sh" "$work/serve/bin/serve"
  local arch
  arch=$(dpkg --print-architecture)
  bash "$ROOT/scripts/image.sh" "$work/oci" 1 "${arch/armhf/arm}" \
    '{"Env":["PATH=/bin"],"Cmd":["/bin/serve"],"ExposedPorts":{"8080/tcp":{}}}' "$work"/{base,content,serve}
  skopeo copy --all --dest-tls-verify=false "oci:$work/oci:1" "docker://$REGISTRY/demo/web:1"
}

apply_demo() {
  sed "s#@IMAGE@#$REGISTRY/demo/web:1#" "$ROOT/scripts/demo/web.yaml" >"$DIR/demo/web.yaml"
  coracle apply -f "$DIR/demo/web.yaml"
  mv "$DIR/demo/web.yaml" "$DIR/demo.yaml"
}

# shellcheck disable=SC2016
# HTTP_GET HOST PORT: the body, by the shell alone; run inside a node with nsenter.
HTTP_GET='exec 3<>"/dev/tcp/$0/$1" && printf "GET / HTTP/1.0\r\n\r\n" >&3 && read -r -t 5 -d "" -u 3 answer; case "$answer" in "HTTP/1."?" 200"*) printf "%s\n" "$answer" | tail -n 1;; *) exit 1;; esac'

# ask_service NODE: one answer of the demonstration through its ClusterIP, from inside a node.
ask_service() {
  timeout 10 nsenter -t "$(pid_of "$1")" -n bash -c "$HTTP_GET" "$2" 80 2>/dev/null
}

# demo_serves [NODES]: from inside each node an answer through the ClusterIP; the pods that answer are three
# (fewer when somebody asked for fewer), on at least this many nodes.
demo_serves() {
  local ip node i answer seen='' wanted
  ip=$(demo_field service clusterIP)
  wanted=$(demo_field deployment replicas)
  [ -n "$ip" ] && [ "${wanted:-0}" -gt 0 ] || return 1
  for node in $(nodes); do
    local answered=no
    for ((i = 0; i < 20; i++)); do
      answer=$(ask_service "$node" "$ip") || continue
      answered=yes seen+="$answer"$'\n'
    done
    [ $answered = yes ] || return 1
  done
  [ "$(printf '%s' "$seen" | sort -u | grep -c '^pod ')" -ge $((wanted < 3 ? wanted : 3)) ] || return 1
  [ "$(printf '%s' "$seen" | sed -n 's/.* on node //p' | sort -u | wc -l)" -ge "${1:-1}" ]
}

# demo_field KIND FIELD: the first of that name in what the demonstration applied; nothing when it is gone.
demo_field() { timeout 20 "$DIR/bin/coracle" --kubeconfig "$DIR/kubeconfig" get "$1" web -o json 2>/dev/null | sed -nE "s/.*\"$2\": *\"?([0-9.]+)\"?.*/\1/p" | head -1; }
demo_gone() { ! coracle get deployment web >/dev/null 2>&1 || ! coracle get service web >/dev/null 2>&1; }

# ---- waiting and showing ----

# A server that hangs is one that does not answer.
coracle() { timeout 20 "$DIR/bin/coracle" --kubeconfig "$DIR/kubeconfig" "$@"; }

# wait_for SECONDS COMMAND…: until it succeeds; not longer, and not when a program has ended meanwhile.
wait_for() {
  local until=$((SECONDS + $1)) name
  shift
  until "$@"; do
    for name in $(started); do
      running "$name" || { say "$name has ended; its log ($DIR/log/$name.log) says:"; tail -n 10 "$DIR/log/$name.log" >&2; return 1; }
    done
    [ $SECONDS -lt $until ] || { say "waited in vain for: $*"; coracle status 2>&1 || true; log_ends; return 1; }
    sleep 0.2
  done
}

log_ends() {
  local name
  for name in $(names); do
    echo "--- $name"
    tail -n 8 "$DIR/log/$name.log" 2>/dev/null || true
  done
}

started() { local name; for name in $(names); do [ ! -e "$DIR/run/$name.pid" ] || echo "$name"; done; }
server_ready() { coracle get --raw /readyz >/dev/null 2>&1; }
node_ready() { coracle get node "$1" -o json 2>/dev/null | tr -d ' \n' | grep -Eq '"status":"True","type":"Ready"|"type":"Ready","status":"True"'; }
nodes_ready() { local node; for node in $(nodes); do node_ready "$node" || return 1; done; }
# answers NAME: on this machine, whatever of the cluster is away.
answers() {
  case $1 in
    registry) registry_ready ;;
    server) server_ready ;;
    *) timeout 20 "$DIR/bin/coracle" ps --socket "$RUNTIME/$1/agent.sock" >/dev/null 2>&1 ;;
  esac
}
registry_ready() { (exec 3<>"/dev/tcp/$GATEWAY/$REGISTRY_PORT") 2>/dev/null; }

write_info() {
  local node list='' url=null pid
  for node in $(nodes); do
    pid=null
    running "$node" && pid=$(pid_of "$node")
    list+=${list:+,}$(printf '{"name":"%s","pid":%s,"ip":"%s","state":"%s","runtime_dir":"%s","cgroup":"%s"}' \
      "$node" "$pid" "$(node_ip "$node")" "$DIR/$node" "$RUNTIME/$node" "$CGROUP/$node")
  done
  [ "$(cat "$DIR/demo-wanted" 2>/dev/null)" = yes ] && [ "$NODES" -gt 0 ] && url="\"http://$(node_ip agent-1):30080/\""
  printf '{"api":"https://127.0.0.1:%s","registry":"%s","registry_push":"%s","nodes":[%s],"demo":{"url":%s}}\n' \
    "$API_PORT" "$REGISTRY" "$REGISTRY" "$list" "$url" >"$DIR/info.json.new"
  mv "$DIR/info.json.new" "$DIR/info.json"
}

status() {
  local name ok=true list=''
  for name in $(names); do
    local state=running
    running "$name" || state=stopped ok=false
    case $name in
      server) [ $state = running ] && ! server_ready && state='not ready' ok=false ;;
      agent-*) [ $state = running ] && ! node_ready "$name" && state='not ready' ok=false ;;
    esac
    list+="$name=$state"$'\n'
  done
  local serves=null
  if [ "$(cat "$DIR/demo-wanted" 2>/dev/null)" = yes ] && [ "$NODES" -gt 0 ]; then
    serves=true
    [ $ok = true ] && demo_serves || serves=false ok=false
  fi
  if [ $json = yes ]; then
    printf '{"ok":%s,"processes":{%s},"demo":{"serves":%s}}\n' $ok \
      "$(printf '%s' "$list" | sed -E 's/^(.*)=(.*)$/"\1":"\2"/' | paste -sd,)" $serves
  else
    printf '%s' "$list" | while IFS='=' read -r name state; do printf '%-14s %s\n' "$name" "$state"; done
    [ $serves = null ] || printf '%-14s %s\n' demonstration "$([ $serves = true ] && echo serves || echo 'does not serve')"
  fi
  [ $ok = true ]
}

what_next() {
  local up=scripts/up.sh kubeconfig=${DIR#"$PWD/"}/kubeconfig
  [ "$DIR" = "$ROOT/.coracle" ] || up+=" --dir $(printf %q "$DIR")"
  cat <<TRY

Coracle runs: 1 server, $NODES nodes. Try:

  export KUBECONFIG=$(printf %q "$(realpath "$kubeconfig")") PATH=$(printf %q "$DIR/bin"):\$PATH
  coracle status
TRY
  if [ "$demo" = yes ] && [ "$NODES" -gt 0 ]; then
    [ ! -x "$DIR/bin/kubectl" ] || printf '  %s\n' 'kubectl get nodes,pods -o wide' 'kubectl scale deployment web --replicas 5'
    printf '  %s\n' 'coracle get pods -o wide' "curl http://$(node_ip agent-1):30080/"
  fi
  cat <<TRY
  skopeo copy --dest-tls-verify=false oci:… docker://$REGISTRY/name:1     (then use $REGISTRY/name:1 as an image)

Take it away again: $up --down
TRY
}

# ---- the whole way up ----

prepare() {
  # A cluster whose directory somebody removed is still there, under the names that this one needs.
  local before
  before=$(owner)
  claim_names
  if [ ! -e "$DIR/settings" ] && [ -n "$before" ]; then step "clear what an earlier cluster left" sweep; fi
  mkdir -p "$DIR"/{bin,run,log,registry}
  save_settings
  forget_the_dead
  [ -z "${SERVER_ARGS+x}" ] || printf '%s' "$SERVER_ARGS" >"$DIR/server-args"
  [ -z "${AGENT_ARGS+x}" ] || printf '%s' "$AGENT_ARGS" >"$DIR/agent-args"
  [ "$demo" = no ] && echo no >"$DIR/demo-wanted"
  [ -e "$DIR/demo-wanted" ] || echo yes >"$DIR/demo-wanted"
  demo=$(cat "$DIR/demo-wanted")
  cat >"$DIR/registry.yml" <<REGISTRY
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: "$DIR/registry"}, delete: {enabled: true}}
http: {addr: "$REGISTRY"}
REGISTRY
  # Theirs to change: credentials, mirrors and authorities of other registries stand here too.
  [ -s "$DIR/registries.json" ] || printf '{"registries":{"%s":{"plainHttp":true}}}\n' "$REGISTRY" >"$DIR/registries.json"
}

# Who called sudo reads the kubeconfig too.
share_kubeconfig() { [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-0}" "$DIR/kubeconfig"; }

up() {
  say "Coracle in $DIR"
  prepare
  step "install packages" install_packages iproute2 nftables skopeo docker-registry busybox-static ca-certificates curl gcc libc6-dev xz-utils
  [ -x "$DIR/bin/docker-registry" ] || install_program "$(command -v docker-registry)" docker-registry
  if ! bin_is_current; then step "$([ -n "$prebuilt" ] && echo "install the programs" || echo "build (the first time: minutes)")" build; fi
  [ -x "$DIR/bin/kubectl" ] || [ -e "$DIR/bin/.kubectl-asked" ] || step "fetch kubectl" fetch_kubectl
  step "network" network_up
  step "start the registry" start registry
  step "registry answers" wait_for 60 registry_ready
  step "start the server" start server
  step "server answers" wait_for 60 server_ready
  share_kubeconfig
  local node
  for node in $(nodes); do step "start $node" start "$node"; done
  if [ "$NODES" -gt 0 ]; then step "nodes are ready" wait_for 120 nodes_ready; fi
  write_info
  if [ "$demo" = yes ] && [ "$NODES" -gt 0 ]; then show_demo; fi
  write_info
  what_next
}

show_demo() {
  if [ ! -e "$DIR/demo.yaml" ]; then
    step "make and push the demonstration image" demo_image
    step "apply the demonstration" apply_demo
    step "demonstration serves on every node" wait_for 180 demo_serves $((NODES < 2 ? NODES : 2))
  elif demo_gone; then
    say "  the demonstration was deleted: it stays away"
    demo=no
    echo no >"$DIR/demo-wanted"
  else
    step "demonstration serves on every node" wait_for 180 demo_serves
  fi
}

[ "$(id -u)" = 0 ] || die "up.sh makes namespaces and cgroups: run it as root (sudo scripts/up.sh)"
case $mode in
  up) mkdir -p "$dir" ;;
  down) [ -d "$dir" ] || exit 0 ;;
  *) [ -e "$dir/settings" ] || die "there is no cluster in $dir: run scripts/up.sh first" ;;
esac
# The directory itself is the lock, so that none is left behind.
exec 9<"$dir"
[ "$mode" = status ] || flock -w 30 9 || die "another up.sh is at work on $dir"
load_cluster "$dir"
[ ! -e "$DIR/settings" ] || [ "${WANT_NODES:-200}" -ge "$NODES" ] ||
  die "this cluster has $NODES nodes: fewer need a fresh one (scripts/up.sh --down first)"
NODES=${WANT_NODES:-$NODES}
trap 'say; say "interrupted: what runs goes on; scripts/up.sh continues, scripts/up.sh --down takes it away"; exit 130' INT TERM
known() { names | grep -qxF -- "$target" || die "no such process: $target (there are: $(names | paste -sd' '))"; }
if [ "$mode" = up ]; then mkdir -p "$DIR/log"; fi
STEP_LOG=$DIR/log/step.log
case $mode in
  up) up ;;
  start)
    known
    claim_names
    forget_the_dead
    network_up
    code=0
    if start "$target"; then wait_for 30 answers "$target" || code=1; else code=1; fi
    write_info
    exit $code
    ;;
  stop)
    if [ "$target" = all ]; then stop_all; else known; stop "$target"; fi
    write_info
    ;;
  status) status ;;
  down)
    # Without settings there may be a cluster whose making was cut off; never another directory's.
    if [ ! -e "$DIR/settings" ] && [ "$(owner)" != "$DIR" ]; then exit 0; fi
    down
    ;;
esac
