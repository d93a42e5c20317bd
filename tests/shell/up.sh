#!/usr/bin/env bash
# up.sh BIN WORK: scripts/up.sh as its first, most hostile user. BIN holds ready-made programs; WORK is on a disk.
. "$(dirname "$0")/lib.sh"

bin=$(realpath "$1") work="$(realpath -m "$2")/a path with spaces"
dir=$work/cluster port=18643
options=(--port $port --registry-port 18650 --subnet 172.31.68)
up() { bash "$ROOT/scripts/up.sh" --dir "$dir" "$@" 9>&-; }
pid() { cat "$dir/run/$1.pid"; }
pods() { cat $(find /sys/fs/cgroup -path "*/crcl$port/*/pods/*" -name cgroup.procs) 2>/dev/null | sort -un; }
gone() { ! kill -0 "$1" 2>/dev/null || grep -q ') Z ' "/proc/$1/stat"; }
kill_now() { kill -KILL "$1"; eventually gone "$1"; }

comes_up_below_a_path_with_spaces() {
  up "${options[@]}" --bin "$bin" --nodes 1
  up --status
  up --status -o json | grep -q '"ok":true.*"serves":true'
  # Exactly what the interface promises.
  for file in kubeconfig info.json bin/coracle-server bin/coracle-agent bin/coracle-pause bin/coracle \
    agent-1 run/server.pid run/server.cmd run/agent-1.cmd log/server.log log/agent-1.log; do
    [ -e "$dir/$file" ] || fail "no $file"
  done
  [ "$(readlink "/proc/$(pid agent-1)/exe")" = "$dir/bin/coracle-agent" ]
  [ "$(head -n 1 "$dir/run/server.cmd")" = "$dir/bin/coracle-server" ]
  nsenter -t "$(pid agent-1)" -n ip -4 addr show eth0 | grep -q 172.31.68.11
  grep -q "\"pid\":$(pid agent-1),\"ip\":\"172.31.68.11\"" "$dir/info.json"
}

run_again_it_changes_nothing() {
  local before after
  before=$(cat "$dir"/run/*; pods; stat -c '%n %Y %i' "$dir"/bin/*; cat "$dir/registries.json")
  # Neither the profile nor the programs are asked for again: nothing is built.
  up >"$work/again" 2>&1 || { cat "$work/again"; return 1; }
  ! grep -q 'build' "$work/again" || fail "it built: $(cat "$work/again")"
  after=$(cat "$dir"/run/*; pods; stat -c '%n %Y %i' "$dir"/bin/*; cat "$dir/registries.json")
  diff <(echo "$before") <(echo "$after")
}

what_was_killed_stays_dead_until_the_next_run() {
  local pods_before
  pods_before=$(pods)
  for name in agent-1 server registry; do kill_now "$(pid "$name")"; done
  refused 'agent-1 +stopped' up --status
  up
  up --status
  [ "$pods_before" = "$(pods)" ] || fail "pods were touched"
}

a_pid_of_another_program_is_not_taken_for_ours() {
  local server
  server=$(pid server)
  kill_now "$(pid agent-1)"
  # After a reboot the number may be that of another of our programs.
  cp "$dir/run/server.pid" "$dir/run/agent-1.pid"
  refused 'agent-1 +stopped' up --status
  up --stop agent-1
  kill -0 "$server" || fail "stopping agent-1 ended the server"
  up --start agent-1
  eventually up --status
}

arguments_are_kept_for_restarts() {
  up --server-args '--node-grace 77'
  up --stop server
  up --start server
  tr '\0' ' ' <"/proc/$(pid server)/cmdline" | grep -q -- '--node-grace 77'
  up --stop server
  up --start server
  tr '\0' ' ' <"/proc/$(pid server)/cmdline" | grep -q -- '--node-grace 77'
  eventually up --status
}

stop_and_start_keep_state() {
  up --stop
  [ -z "$(pods)" ] || fail "pods run on"
  grep -q '"pid":null' "$dir/info.json"
  refused 'server +stopped' up --status
  # A node starts its pods with the server away.
  up --start registry
  up --start agent-1
  # What was started answers: nobody has to wait before the next command.
  "$dir/bin/coracle" ps --socket "/run/crcl$port/agent-1/agent.sock"
  serves_on_the_node() { [ "$(pods | wc -l)" -ge 3 ]; }
  eventually serves_on_the_node
  up
}

reboot() {
  local p
  kill -KILL $(pods) $(cat "$dir"/run/*.pid) 2>/dev/null || true
  for p in /proc/[0-9]*; do case $(readlink "$p/exe" 2>/dev/null) in "$dir/bin/"*) kill -KILL "${p#/proc/}" ;; esac; done
  rm -f "/run/crcl$port.owner"
  awk -v d="/run/crcl$port/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  rm -rf "/run/crcl$port"
  ip link del "crcl$port"
  ip netns del "crcl$port-agent-1"
}

after_a_reboot_it_goes_on() {
  reboot
  refused 'stopped' up --status
  up
  up --status
}

interrupted_anywhere_it_continues() {
  local delay job
  up --stop
  for delay in 0.05 0.2 0.4 0.7 1.2; do
    # A terminal's Ctrl-C reaches the whole group; a shell without job control would have it ignored.
    setsid --fork --wait bash -c 'echo $$ >"$0.pid"; exec env --default-signal=INT bash "$@"' "$work/int" \
      "$ROOT/scripts/up.sh" --dir "$dir" &
    job=$!
    sleep "$delay"
    kill -INT -- "-$(cat "$work/int.pid")" 2>/dev/null || true
    wait $job || true
  done
  up
  up --status
}

a_removed_directory_does_not_stand_in_the_way() {
  rm -rf "$dir"
  mkdir -p "$dir/bin"
  touch "$dir/bin/.kubectl-asked"
  up "${options[@]}" --bin "$bin" --nodes 2
  up --status
}

a_deleted_demonstration_stays_away() {
  "$dir/bin/coracle" --kubeconfig "$dir/kubeconfig" delete deployment web
  up 2>&1 | grep 'stays away'
  up --status
}

nonsense_is_refused() {
  refused "takes a number" up --nodes two
  refused "at most 200" up --nodes 201
  refused "fewer need a fresh one" up --nodes 1
  refused "this cluster has --port $port" up --port 18644
  refused "unknown argument: --frobnicate" up --frobnicate
  refused "no such process: agent-9" up --start agent-9
  refused "no such process: everything" up --stop everything
  refused "there is no cluster" bash "$ROOT/scripts/up.sh" --dir "$work/none" --status
  refused "belongs to the cluster in" bash "$ROOT/scripts/up.sh" --dir "$work/other" "${options[@]}" --bin "$bin"
  refused "has a colon" bash "$ROOT/scripts/up.sh" --dir "$work/a:b" --bin "$bin"
  refused "run it as root" setpriv --reuid 65534 --regid 65534 --clear-groups bash "$ROOT/scripts/up.sh" --dir /tmp/x
  rm -rf "$work/other"
}

a_failing_step_is_named_with_its_log() {
  # The registry's port on the other cluster's gateway is taken there; nobody has this address.
  refused 'step "network" failed.*' bash "$ROOT/scripts/up.sh" --dir "$work/other" --port 18645 --subnet 172.31.68 --bin "$bin"
  bash "$ROOT/scripts/up.sh" --dir "$work/other" --down
}

down_says_what_it_could_not_take_away() {
  touch "$dir/immovable"
  chattr +i "$dir/immovable"
  refused "left behind:" up --down
  chattr -i "$dir/immovable"
  up --down
  [ "$(ls "$dir")" = bin ] || fail "left: $(ls "$dir")"
  ! ip -o link | grep "crcl$port" || fail "links are left"
  ! ip netns | grep "crcl$port" || fail "namespaces are left"
  ! nft list tables | grep "crcl$port" || fail "tables are left"
  [ -z "$(ls -d /run/crcl$port* 2>/dev/null)" ] || fail "files in /run are left"
  up --down
}

a_server_alone() {
  up "${options[@]}" --bin "$bin" --nodes 0
  up --status -o json | grep -q '"serves":null'
  up --down
}

mkdir -p "$dir/bin"
# The tests of the scripts need no kubectl, and no network.
touch "$dir/bin/.kubectl-asked"
trap 'up --down >/dev/null 2>&1; rm -rf "$work"' EXIT
for name in comes_up_below_a_path_with_spaces run_again_it_changes_nothing what_was_killed_stays_dead_until_the_next_run \
  a_pid_of_another_program_is_not_taken_for_ours arguments_are_kept_for_restarts stop_and_start_keep_state \
  after_a_reboot_it_goes_on interrupted_anywhere_it_continues a_removed_directory_does_not_stand_in_the_way \
  a_deleted_demonstration_stays_away nonsense_is_refused a_failing_step_is_named_with_its_log \
  down_says_what_it_could_not_take_away a_server_alone; do
  case_of $name
done
summary
