# agent-restart and server-start: how long until a program that was killed is of use again.
# shellcheck shell=bash

# words_of NAME: the argv of a program of the cluster, a node's inside its network, as WORDS.
words_of() {
  local namespace
  mapfile -t WORDS <"$CLUSTER/run/$1.cmd"
  case $1 in
    agent-*)
      namespace=/proc/$(cat "$CLUSTER/run/$1.pid")/ns/net
      # Held open: the process that it is named by is about to be killed.
      exec 6<"$namespace"
      WORDS=(nsenter --net=/proc/self/fd/6 -- "${WORDS[@]}")
      ;;
  esac
}

# kill_hard NAME: SIGKILL, and waits for the end.
kill_hard() {
  local pid
  pid=$(cat "$CLUSTER/run/$1.pid")
  kill -KILL "$pid"
  await_end "$pid"
}

# whole NAME FILE: a figure that is a number of something.
whole() { figure "$1" "$2" | cut -d. -f1; }

# container_pids: the processes of the pods, their pauses included.
container_pids() { find /sys/fs/cgroup -path "*$CGROUP*pods*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -nu; }

RESTARTS=5

bench_agent-restart() {
  local image round victim pid untouched before after
  work_dir
  cluster_up
  image=$(push small)
  keep_pods 10 "$image" --shell "$IDLE_SHELL"
  for ((round = 0; round < RESTARTS; round++)); do
    words_of agent-1
    # What happens to a pod while no agent is there is how its report is told from an older one.
    victim=keep-$round
    pid=$(nsenter_pid "$victim")
    before=$(container_pids)
    kill_hard agent-1
    kill -KILL "$pid"
    "$BENCH" restart --kubeconfig "$KUBECONFIG" --pod "$victim" --log "$CLUSTER/log/agent-1.log" -- "${WORDS[@]}" >"$WORK/restart"
    exec 6<&-
    whole pid "$WORK/restart" >"$CLUSTER/run/agent-1.pid"
    figure reported_ms "$WORK/restart" >>"$WORK/reported"
    after=$(container_pids)
    untouched=$(comm -12 <(echo "$before") <(echo "$after") | wc -l)
    [ "$untouched" -ge $(($(echo "$before" | wc -l) - 3)) ] || die "the restart touched pods: $before became $after"
    # Time for the victim to run again, out of the next round's way.
    sleep 2
  done
  emit agent-restart/reported "$(median "$WORK/reported" 1)" ms le 100 null "$AGENT"
  emit agent-restart/worst "$(sort -g "$WORK/reported" | tail -n 1)" ms le null null "$AGENT"
}

# nsenter_pid POD: the process of the pod's container, by the agent's own list; the pause is its parent.
nsenter_pid() {
  local uid file pid
  uid=$("$CLUSTER/bin/coracle" --kubeconfig "$KUBECONFIG" get --raw "/api/v1/namespaces/default/pods/$1" |
    sed -nE 's/.*"uid":"([^"]+)".*/\1/p')
  for file in $(find /sys/fs/cgroup -path "*$CGROUP*pods/$uid/*" -name cgroup.procs 2>/dev/null); do
    # A container's first process is the oldest of its group.
    pid=$(sort -n "$file" | head -n 1)
    [ -z "$pid" ] || { echo "$pid"; return; }
  done
  die "no process of the pod $1 found"
}

# server_again: starts the killed server with the same arguments; milliseconds until it answers.
server_again() {
  "$BENCH" ready --kubeconfig "$WORK/kubeconfig" --log "$WORK/server.log" -- \
    "$PROGRAMS/coracle-server" --state "$WORK/server" --listen "$ADDRESS" --advertise 127.0.0.1 --kubeconfig "$WORK/kubeconfig" >"$WORK/ready"
  SERVER_PID=$(whole pid "$WORK/ready")
  at_exit end_process "$SERVER_PID"
  figure ready_ms "$WORK/ready"
}

# end_and_wait SIGNAL: ends the server, which may be nobody's child.
end_and_wait() {
  kill "-$1" "$SERVER_PID"
  await_end "$SERVER_PID"
}

bench_server-start() {
  local server=$PROGRAMS/coracle-server time storm
  work_dir
  server_up "$WORK/server"
  ADDRESS=$(sed -nE 's|.*server: "?https://([0-9.:]+)"?.*|\1|p' "$WORK/kubeconfig")
  "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers 8 --writes 1000 --prefix few >&2
  end_and_wait TERM
  server_again >"$WORK/time"
  emit server-start/1000 "$(cat "$WORK/time")" ms le 200 null "$server"
  SERVER_PID=$(whole pid "$WORK/ready")
  "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers 64 --writes 149000 --prefix many >&2
  end_and_wait TERM
  server_again >"$WORK/time"
  emit server-start/150000 "$(cat "$WORK/time")" ms le 2000 null "$server"
  SERVER_PID=$(whole pid "$WORK/ready")
  # Killed while it writes: the journal is replayed.
  "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers 64 --writes 1000000 --prefix storm >/dev/null 2>&1 &
  storm=$!
  sleep 1
  end_and_wait KILL
  wait $storm || true
  server_again >"$WORK/time"
  emit server-start/150000-killed "$(cat "$WORK/time")" ms le 2000 null "$server"
}
