# store-write and write-amp: how fast an object is durable, and what reaches the disk for it.
# shellcheck shell=bash

WRITES=${BENCH_WRITES:-20000}

# etcd_up DIRECTORY: etcd as Debian ships it, with its own defaults, at ETCD.
etcd_up() {
  local client peer tries
  client=$(free_port) peer=$(free_port)
  ETCD=127.0.0.1:$client
  /usr/bin/etcd --name bench --data-dir "$1" --listen-client-urls "http://$ETCD" --advertise-client-urls "http://$ETCD" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "bench=http://127.0.0.1:$peer" --logger zap --log-level error >"$WORK/etcd.log" 2>&1 &
  ETCD_PID=$!
  at_exit end_process "$ETCD_PID"
  for ((tries = 0; tries < 100; tries++)); do
    "$BENCH" etcd --address "$ETCD" --writers 1 --writes 1 >/dev/null 2>&1 && return
    sleep 0.2
  done
  die "etcd did not answer: $(tail -n 5 "$WORK/etcd.log")"
}

# server_up DIRECTORY: a server alone, with its kubeconfig beside its state.
server_up() {
  local address tries
  address=127.0.0.1:$(free_port)
  "$PROGRAMS/coracle-server" --state "$1" --listen "$address" --advertise 127.0.0.1 --kubeconfig "$WORK/kubeconfig" >"$WORK/server.log" 2>&1 &
  SERVER_PID=$!
  at_exit end_process "$SERVER_PID"
  for ((tries = 0; tries < 100; tries++)); do
    [ -s "$WORK/kubeconfig" ] && "$PROGRAMS/coracle" --kubeconfig "$WORK/kubeconfig" get --raw /readyz >/dev/null 2>&1 && return
    sleep 0.2
  done
  die "the server did not answer: $(tail -n 5 "$WORK/server.log")"
}

end_process() {
  kill -TERM "$1" 2>/dev/null || return 0
  await_end "$1"
}

# await_end PID: also of a process that is another's child.
await_end() {
  wait "$1" 2>/dev/null || true
  while kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"; do sleep 0.02; done
}

# fronts ROUNDS: etcd and the server in turns, into files of rates and p99s.
fronts() {
  local round writers writes
  for ((round = 0; round < $1; round++)); do
    for writers in 1 64; do
      writes=$((WRITES / 4 / $1 * (writers > 1 ? 4 : 1)))
      "$BENCH" etcd --address "$ETCD" --writers $writers --writes $writes >"$WORK/turn"
      turn "etcd-$writers"
      "$BENCH" creates --kubeconfig "$WORK/kubeconfig" --writers $writers --writes $writes --prefix "w$writers-$round" >"$WORK/turn"
      turn "https-$writers"
    done
  done
}

# turn NAME: keeps the figures of the turn just made.
turn() {
  figure rate "$WORK/turn" >>"$WORK/$1.rate"
  figure p99_ms "$WORK/turn" >>"$WORK/$1.p99"
}

bench_store-write() {
  local writers raw etcd server=$PROGRAMS/coracle-server
  work_dir
  "$TOOLS/store_bench" "$WORK" "$WRITES" speed >"$WORK/bare"
  etcd_up "$WORK/etcd"
  server_up "$WORK/server"
  fronts 5
  raw=$(json_value store/raw-append-fdatasync "$WORK/bare")
  emit store-write/fsync "$(calculate "1000 / $raw")" ms le null null "$TOOLS/store_bench"
  emit store-write/1w "$(json_value store/create/1w "$WORK/bare")" 1/s ge "$(calculate "$raw / 1.5")" "$raw" "$TOOLS/store_bench"
  etcd=$(median "$WORK/etcd-64.rate" 1)
  emit store-write/64w "$(json_value store/create/64w "$WORK/bare")" 1/s ge "$(calculate "$etcd * 3")" "$etcd" "$TOOLS/store_bench"
  for writers in 1 64; do
    etcd=$(median "$WORK/etcd-$writers.rate" 1)
    emit "store-write/https-${writers}w" "$(median "$WORK/https-$writers.rate" 1)" 1/s ge "$etcd" "$etcd" "$server"
    emit "store-write/https-${writers}w-p99" "$(median "$WORK/https-$writers.p99" 1)" ms le null "$(median "$WORK/etcd-$writers.p99" 1)" "$server"
  done
}

bench_write-amp() {
  local writers
  work_dir
  disk_up
  "$TOOLS/store_bench" "$DISK" "$WRITES" amplification >"$WORK/amplification"
  for writers in 1 64; do
    emit "write-amp/${writers}w" "$(json_value "store/write-amp/${writers}w" "$WORK/amplification")" B/update le \
      "$([ $writers = 1 ] && echo 16000 || echo 6000)" null "$TOOLS/store_bench"
    emit "write-amp/${writers}w-flushes" "$(json_value "store/flushes/${writers}w" "$WORK/amplification")" 1/update le null null "$TOOLS/store_bench"
  done
}
