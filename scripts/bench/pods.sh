# pod-start and pod-storm: from POST to Running, one after another and all at once.
# shellcheck shell=bash

# trace_syncs FILE: strace on the server and the agent, with everything they start, at TRACERS.
trace_syncs() {
  local pid pids=()
  for pid in $(cat "$CLUSTER"/run/server.pid "$CLUSTER"/run/agent-*.pid); do pids+=(-p "$pid"); done
  strace -f -qq -ttt -e trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync -o "$1" "${pids[@]}" 2>"$1.messages" &
  TRACER=$!
  at_exit end_process "$TRACER"
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    grep -q "^TracerPid:[[:space:]]*$TRACER$" "/proc/$(cat "$CLUSTER/run/agent-1.pid")/status" && return
    sleep 0.1
  done
  die "strace did not attach: $(cat "$1.messages")"
}

# syncs_in SPANS TRACE: calls that began inside a span, a pod.
syncs_in() {
  awk 'FNR == NR { from[NR] = $1; to[NR] = $2; n = NR; next }
    / (fsync|fdatasync|syncfs|sync|sync_file_range|msync)\(/ { for (i = 1; i <= n; i++) if ($2 >= from[i] && $2 <= to[i]) calls++ }
    END { if (!n) exit 1; printf "%.3f\n", calls / n }' "$1" "$2"
}

bench_pod-start() {
  local image
  work_dir
  cluster_up
  image=$(push small)
  # The image comes to the node, and each program has done everything once.
  "$BENCH" pod-start --kubeconfig "$KUBECONFIG" --image "$image" --pods 5 >&2
  "$BENCH" pod-start --kubeconfig "$KUBECONFIG" --image "$image" --pods 50 >"$WORK/start"
  trace_syncs "$WORK/trace"
  "$BENCH" pod-start --kubeconfig "$KUBECONFIG" --image "$image" --pods 10 --spans "$WORK/spans" >&2
  end_process "$TRACER"
  [ -z "${BENCH_KEEP:-}" ] || cp "$WORK/trace" "$WORK/spans" "$BENCH_KEEP/"
  cat "$WORK/start" >&2
  emit pod-start/p50 "$(figure p50_ms "$WORK/start")" ms le 25 null "$AGENT"
  emit pod-start/p99 "$(figure p99_ms "$WORK/start")" ms le 100 null "$AGENT"
  emit pod-start/first-line-p50 "$(figure first_line_p50_ms "$WORK/start")" ms le null null "$AGENT"
  emit pod-start/first-line-p99 "$(figure first_line_p99_ms "$WORK/start")" ms le null null "$AGENT"
  emit pod-start/syncs "$(syncs_in "$WORK/spans" "$WORK/trace")" syncs/pod le 3 null "$AGENT"
}

bench_pod-storm() {
  local image
  work_dir
  cluster_up
  image=$(push small)
  "$BENCH" pod-start --kubeconfig "$KUBECONFIG" --image "$image" --pods 5 >&2
  "$BENCH" pod-storm --kubeconfig "$KUBECONFIG" --image "$image" --pods 100 >"$WORK/storm"
  cat "$WORK/storm" >&2
  emit pod-storm/100 "$(figure all_s "$WORK/storm")" s le 2 null "$AGENT"
  emit pod-storm/half "$(figure half_s "$WORK/storm")" s le null null "$AGENT"
  emit pod-storm/first-line-p50 "$(figure first_line_p50_ms "$WORK/storm")" ms le null null "$AGENT"
}
