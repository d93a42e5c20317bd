#!/usr/bin/env bash
# up.sh: from a fresh clone to a running cluster on this machine, with a demonstration.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/cluster.sh"

usage() {
  cat <<'EOF'
up.sh: a Coracle cluster on this machine, from a fresh clone, in one step.

  scripts/up.sh [options]         build what is missing, start what is not running, show that it serves
  scripts/up.sh --start NAME      start one: registry, server, agent-1, agent-2, …
  scripts/up.sh --stop NAME       stop one, its state and its pods kept; `all` stops everything, pods included
  scripts/up.sh --status [-o json]  what runs and serves; exits 0 only when all of it does
  scripts/up.sh --down            stop everything and take it away; lists what is left behind

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

mode=up target='' prebuilt='' dir=$ROOT/.coracle demo=yes profile=release faults='' json=no
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) WANT_NODES=${2:?--nodes needs a number}; shift ;;
    --server-args) SERVER_ARGS=${2?--server-args needs a value}; shift ;;
    --agent-args) AGENT_ARGS=${2?--agent-args needs a value}; shift ;;
    --no-demo) demo=no ;;
    --profile) profile=${2:?}; shift ;;
    --faults) faults=yes ;;
    --bin) prebuilt=$(realpath "${2:?--bin needs a directory}"); shift ;;
    --dir) dir=$(realpath -m "${2:?}"); shift ;;
    --port) API_PORT=${2:?}; shift ;;
    --registry-port) REGISTRY_PORT=${2:?}; shift ;;
    --subnet) SUBNET=${2:?}; shift ;;
    --start | --stop) mode=${1#--} target=${2:?$1 needs a name}; shift ;;
    --status | --down) mode=${1#--} ;;
    -o) [ "${2:-}" = json ] || die "-o takes json"; json=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
  esac
  shift
done
case ${WANT_NODES:-0} in *[!0-9]*) die "--nodes takes a number, not ${WANT_NODES@Q}" ;; esac
[ "${WANT_NODES:-0}" -le 200 ] || die "--nodes is at most 200: the nodes share one /24"
case $profile in dev | release) ;; *) die "--profile is dev or release, not ${profile@Q}" ;; esac

# ---- building ----

bin_is_current() {
  [ -z "$prebuilt" ] || return 1
  [ -x "$DIR/bin/coracle-agent" ] && [ "$(cat "$DIR/bin/.built" 2>/dev/null)" = "$profile $faults" ] &&
    [ -z "$(find "$ROOT"/{Cargo.toml,Cargo.lock,shared,images,server,agent} -newer "$DIR/bin/.built" \( -name '*.rs' -o -name '*.toml' -o -name Cargo.lock -o -name '*.fields' \) -print -quit)" ]
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
  (cd "$ROOT" && cargo build "${args[@]}")
  out=$(cd "$ROOT" && cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/$out
  install_programs "$out"
}

install_programs() {
  local name
  for name in coracle-server coracle-agent coracle-pause coracle; do install_program "$1/$name" "$name"; done
  echo "$profile $faults" >"$DIR/bin/.built"
}

# install_program SOURCE NAME: a running program keeps its old file; the new one is for the next start.
install_program() {
  install -m 755 "$1" "$DIR/bin/$2.new"
  mv "$DIR/bin/$2.new" "$DIR/bin/$2"
}

fetch_kubectl() {
  bash "$ROOT/scripts/kubectl.sh" 1.32 "$DIR/bin/kubectl" || say "going on without kubectl: coracle does the daily work"
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

# demo_serves: from inside each node an answer through the ClusterIP, and all pods on all nodes seen.
demo_serves() {
  local ip node i answer seen=''
  ip=$(coracle get service web -o json 2>/dev/null | sed -nE 's/.*"clusterIP": *"([0-9.]+)".*/\1/p' | head -1)
  [ -n "$ip" ] || return 1
  for node in $(nodes); do
    local answered=no
    for ((i = 0; i < 20; i++)); do
      answer=$(ask_service "$node" "$ip") || continue
      answered=yes seen+="$answer"$'\n'
    done
    [ $answered = yes ] || return 1
  done
  [ "$(printf '%s' "$seen" | sort -u | grep -c '^pod ')" -ge 3 ] || return 1
  [ "$(printf '%s' "$seen" | sed -n 's/.* on node //p' | sort -u | wc -l)" -ge $((NODES < 2 ? NODES : 2)) ]
}

# ---- waiting and showing ----

coracle() { "$DIR/bin/coracle" --kubeconfig "$DIR/kubeconfig" "$@"; }

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
registry_ready() { (exec 3<>"/dev/tcp/$GATEWAY/$REGISTRY_PORT") 2>/dev/null; }

write_info() {
  local node list='' url=null
  for node in $(nodes); do
    list+=${list:+,}$(printf '{"name":"%s","pid":%s,"ip":"%s","state":"%s","runtime_dir":"%s","cgroup":"%s"}' \
      "$node" "$(pid_of "$node")" "$(node_ip "$node")" "$DIR/$node" "$RUNTIME/$node" "$CGROUP/$node")
  done
  [ "$(cat "$DIR/demo-wanted")" = yes ] && [ "$NODES" -gt 0 ] && url="\"http://$(node_ip agent-1):30080/\""
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
    printf '%s' "$list" | column -t -s=
    [ $serves = null ] || echo "demonstration  $([ $serves = true ] && echo serves || echo 'does not serve')"
  fi
  [ $ok = true ]
}

what_next() {
  cat <<EOF

Coracle runs: 1 server, $NODES nodes. Try:

  export KUBECONFIG=${DIR#"$PWD/"}/kubeconfig PATH=$DIR/bin:\$PATH
  coracle status
EOF
  [ -x "$DIR/bin/kubectl" ] && cat <<'EOF'
  kubectl get nodes,pods -o wide
  kubectl scale deployment web --replicas 5
  kubectl logs deployment/web
EOF
  if [ "$demo" = yes ] && [ "$NODES" -gt 0 ]; then echo "  curl http://$(node_ip agent-1):30080/"; fi
  cat <<EOF
  skopeo copy --dest-tls-verify=false oci:… docker://$REGISTRY/name:1     (then use $REGISTRY/name:1 as an image)

Take it away again: scripts/up.sh --down
EOF
}

# ---- the whole way up ----

prepare() {
  mkdir -p "$DIR"/{bin,run,log,registry}
  save_settings
  [ -n "${SERVER_ARGS+x}" ] && { printf '%s' "$SERVER_ARGS" >"$DIR/server-args"; running server || rm -f "$DIR/run/server.cmd"; }
  [ -n "${AGENT_ARGS+x}" ] && printf '%s' "$AGENT_ARGS" >"$DIR/agent-args"
  [ "$demo" = no ] && echo no >"$DIR/demo-wanted"
  [ -e "$DIR/demo-wanted" ] || echo yes >"$DIR/demo-wanted"
  demo=$(cat "$DIR/demo-wanted")
  cat >"$DIR/registry.yml" <<EOF
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $DIR/registry}, delete: {enabled: true}}
http: {addr: "$REGISTRY"}
EOF
  printf '{"registries":{"%s":{"plainHttp":true}}}\n' "$REGISTRY" >"$DIR/registries.json"
}

up() {
  prepare
  say "Coracle in $DIR"
  step "install packages" install_packages iproute2 nftables skopeo docker-registry busybox-static ca-certificates gcc libc6-dev xz-utils
  [ -x "$DIR/bin/docker-registry" ] || install_program "$(command -v docker-registry)" docker-registry
  if ! bin_is_current; then step "$([ -n "$prebuilt" ] && echo "install the programs" || echo "build (the first time: minutes)")" build; fi
  [ -x "$DIR/bin/kubectl" ] || step "fetch kubectl" fetch_kubectl
  step "network" network_up
  step "start the registry" start registry
  step "registry answers" wait_for 60 registry_ready
  step "start the server" start server
  step "server answers" wait_for 60 server_ready
  local node
  for node in $(nodes); do step "start $node" start "$node"; done
  [ "$NODES" -gt 0 ] && step "nodes are ready" wait_for 120 nodes_ready
  write_info
  if [ "$demo" = yes ] && [ "$NODES" -gt 0 ]; then
    if [ ! -e "$DIR/demo.yaml" ]; then
      step "make and push the demonstration image" demo_image
      step "apply the demonstration" apply_demo
    fi
    step "demonstration serves on every node" wait_for 180 demo_serves
  fi
  write_info
  what_next
}

[ "$(id -u)" = 0 ] || die "up.sh makes namespaces and cgroups: run it as root (sudo scripts/up.sh)"
if [ "$mode" != up ]; then [ -e "$dir/settings" ] || { [ "$mode" = down ] && exit 0; die "there is no cluster in $dir: run scripts/up.sh first"; }; fi
mkdir -p "$dir"
exec 9>"$dir.lock"
[ "$mode" = status ] || flock -n 9 || die "another up.sh is at work on $dir"
load_cluster "$dir"
[ "${WANT_NODES:-200}" -ge "${NODES:-0}" ] || die "this cluster has $NODES nodes: fewer need a fresh one (scripts/up.sh --down first)"
NODES=${WANT_NODES:-${NODES:-2}}
trap 'say; say "interrupted: what runs goes on; scripts/up.sh continues, scripts/up.sh --down takes it away"; exit 130' INT
mkdir -p "$DIR/log"
STEP_LOG=$DIR/log/step.log
case $mode in
  up) up ;;
  start)
    names | grep -qx "$target" || die "no such process: $target (there are: $(names | paste -sd' '))"
    start "$target" && write_info
    ;;
  stop)
    if [ "$target" = all ]; then stop_all; else
      names | grep -qx "$target" || die "no such process: $target (there are: all $(names | paste -sd' '))"
      stop "$target"
    fi
    ;;
  status) status ;;
  down) down; code=$?; rm -f "$dir.lock"; exit $code ;;
esac
