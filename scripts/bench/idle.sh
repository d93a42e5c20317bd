# mem-server, mem-agent, mem-pod, cpu-idle, disk-idle: what it costs to run and do nothing.
# shellcheck shell=bash

# After work, before a look at memory or CPU: events are written, caches emptied.
SETTLE_SECONDS=${BENCH_SETTLE_SECONDS:-15}
CPU_SECONDS=${BENCH_CPU_SECONDS:-60}
IDLE_SECONDS=${BENCH_IDLE_SECONDS:-600}
IDLE_SHELL='trap "exit 0" TERM; while :; do sleep 3600 & wait; done'
# Logs a line a second, and answers its probe.
BUSY_SHELL='httpd -p 8080 -h /etc; while :; do date; sleep 1; done'

mebibytes() { calculate "$1 / 1024"; }

# tour: what a person does on a first afternoon, by kubectl where there is one.
tour() {
  local client=("$CLUSTER/bin/kubectl") image=$1
  [ -x "${client[0]}" ] || client=("$CLUSTER/bin/coracle")
  cat >"$WORK/tour.yaml" <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: tour}
spec:
  replicas: 2
  selector: {matchLabels: {app: tour}}
  template:
    metadata: {labels: {app: tour}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: $image, command: [/bin/sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait; done']}]
---
apiVersion: v1
kind: Service
metadata: {name: tour}
spec: {selector: {app: tour}, ports: [{port: 80, targetPort: 8080}]}
END
  "${client[@]}" apply -f "$WORK/tour.yaml"
  "${client[@]}" get pods,deployments,services,nodes -o wide || "${client[@]}" get pods -o wide
  if [ "${client[0]}" = "$CLUSTER/bin/kubectl" ]; then
    "${client[@]}" rollout status deployment/tour --timeout=120s
    "${client[@]}" scale deployment tour --replicas 3
    "${client[@]}" describe deployment tour
    "${client[@]}" describe nodes
  fi
  "${client[@]}" delete -f "$WORK/tour.yaml"
}

bench_mem-server() {
  local image before after
  work_dir
  cluster_up
  image=$(push small)
  tour "$image" >&2
  "$BENCH" documents --kubeconfig "$KUBECONFIG" >&2
  "$BENCH" storm --kubeconfig "$KUBECONFIG" --objects 1000 >&2
  keep_pods 10 "$image" --shell "$IDLE_SHELL"
  sleep "$SETTLE_SECONDS"
  "$BENCH" memory "$SERVER" >"$WORK/idle"
  cat "$WORK/idle" >&2
  emit mem-server/idle "$(mebibytes "$(figure pss_kib "$WORK/idle")")" MiB le 20 null "$SERVER"
  emit mem-server/peak "$(mebibytes "$(figure peak_kib "$WORK/idle")")" MiB le 60 null "$SERVER"
  "$BENCH" creates --kubeconfig "$KUBECONFIG" --writers 8 --writes 10000 --prefix many >&2
  sleep "$SETTLE_SECONDS"
  "$BENCH" memory "$SERVER" >"$WORK/many"
  cat "$WORK/many" >&2
  before=$(figure pss_kib "$WORK/idle") after=$(figure pss_kib "$WORK/many")
  emit mem-server/10000-objects "$(mebibytes "$after")" MiB le null null "$SERVER"
  emit mem-server/object "$(calculate "($after - $before) * 1024 / 10000")" B le 2048 null "$SERVER"
}

bench_mem-agent() {
  local image peak
  work_dir
  cluster_up
  image=$(push small)
  keep_pods 10 "$image" --shell "$IDLE_SHELL"
  image=$(push large)
  # The most while a pod's 100 MB are pulled.
  mkfifo "$WORK/end"
  "$BENCH" peak "$AGENT" <"$WORK/end" >"$WORK/peak" &
  peak=$!
  exec 5>"$WORK/end"
  "$BENCH" pod-start --kubeconfig "$KUBECONFIG" --image "$image" --pods 1 >"$WORK/pull"
  exec 5>&-
  wait $peak
  cat "$WORK/pull" >&2
  sleep "$SETTLE_SECONDS"
  "$BENCH" memory "$AGENT" >"$WORK/idle"
  cat "$WORK/idle" >&2
  emit mem-agent/idle "$(mebibytes "$(figure pss_kib "$WORK/idle")")" MiB le 8 null "$AGENT"
  emit mem-agent/processes "$(figure processes "$WORK/idle")" processes le null null "$AGENT"
  emit mem-agent/peak-pull "$(mebibytes "$(figure peak_pss_kib "$WORK/peak")")" MiB le 40 null "$AGENT"
}

bench_mem-pod() {
  work_dir
  cluster_up
  keep_pods 10 "$(push small)" --shell "$IDLE_SHELL"
  sleep "$SETTLE_SECONDS"
  "$BENCH" memory --cgroup "$CGROUP" "$PAUSE" >"$WORK/pause"
  cat "$WORK/pause" >&2
  [ "$(figure processes "$WORK/pause")" = 10.000000 ] || say "note: $(figure processes "$WORK/pause") pause processes for 10 pods"
  emit mem-pod/largest "$(mebibytes "$(figure largest_pss_kib "$WORK/pause")")" MiB le 0.3 null "$PROGRAMS/coracle-pause"
  emit mem-pod/mean "$(calculate "$(figure pss_kib "$WORK/pause") / $(figure processes "$WORK/pause") / 1024")" MiB le 0.3 null "$PROGRAMS/coracle-pause"
}

bench_cpu-idle() {
  work_dir
  cluster_up
  keep_pods 10 "$(push small)" --shell "$IDLE_SHELL"
  sleep "$SETTLE_SECONDS"
  "$BENCH" cpu --seconds "$CPU_SECONDS" --cgroup "$CGROUP" "$SERVER" "$AGENT" "$PAUSE" >"$WORK/cpu"
  emit cpu-idle/all "$(figure percent "$WORK/cpu")" '% of a core' le 0.1 null "$SERVER"
}

bench_disk-idle() {
  local before flushes_before sectors
  work_dir
  disk_up
  cluster_up 1 "$DISK"
  keep_pods 10 "$(push small)" --shell "$BUSY_SHELL" --probe 8080
  sleep "$SETTLE_SECONDS"
  sync -f "$DISK"
  sleep 2
  before=$(written) flushes_before=$(flushes)
  sleep "$IDLE_SECONDS"
  # What only waits in memory counts as well.
  sync -f "$DISK"
  sectors=$((($(written) - before) / 512))
  emit "disk-idle/${IDLE_SECONDS}s" $sectors sectors le 0 null "$SERVER"
  emit "disk-idle/${IDLE_SECONDS}s-flushes" $(($(flushes) - flushes_before)) flushes le null null "$SERVER"
}
