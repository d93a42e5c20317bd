#!/bin/sh
# install.sh: puts a Coracle server or agent on this machine, upgrades it in place, or takes it away.
set -eu

usage() {
  cat <<'USAGE'
install.sh: installs, upgrades or removes a Coracle server or agent on a Linux machine.

  install.sh server [options]            the cluster's server
  install.sh agent --join LINE [options] a node; LINE is what `coracle token create` printed
  install.sh --check                     only looks whether this machine can be a node
  install.sh --uninstall                 removes programs, services and all state; ends the pods first

  --from SOURCE   where the programs are: a directory with SHA256SUMS, an archive coracle-ARCH.tar.gz
                  (its SHA256SUMS beside it, or --sha256), or a URL prefix that serves both
                  (default: the directory of this script)
  --sha256 HEX    the archive's checksum, from somewhere you trust
  --name NODE     the node's name (default: the host name)
  --args '...'    further arguments of the program; kept by upgrades
  --confirm SECS  an upgraded program that does not stay up this long is taken back (default 60)
  --boot-line     where the memory controller is off: append what turns it on to the boot command line
  --root DIR      everything below DIR (for images and tests); then nothing is started by an init system

Run as root. It asks nothing. A second run upgrades in place: nothing is replaced before every checksum is
right, running pods stay, and programs that fail are taken back.
Programs lie in /usr/local/bin, state in /var/lib/coracle, arguments in /etc/coracle.
Exits 0 when it runs, 1 when nothing was changed, 3 when an upgrade was taken back.
USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

mode='' from='' sum='' join='' name='' args='' args_given=no confirm=60 boot_line=no root=''
need() { [ "$2" -gt 1 ] || die "$1 needs a value"; }
while [ $# -gt 0 ]; do
  case $1 in
    server | agent) mode=$1 ;;
    --check | --uninstall) mode=${1#--} ;;
    --from) need "$1" $#; from=$2; shift ;;
    --sha256) need "$1" $#; sum=$2; shift ;;
    --join) need "$1" $#; join=$2; shift ;;
    --name) need "$1" $#; name=$2; shift ;;
    --args) need "$1" $#; args=$2 args_given=yes; shift ;;
    --confirm) need "$1" $#; confirm=$2; shift ;;
    --boot-line) boot_line=yes ;;
    --root) need "$1" $#; root=${2%/}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
  esac
  shift
done
[ -n "$mode" ] || { usage >&2; exit 1; }
case $confirm in '' | *[!0-9]*) die "--confirm takes seconds, not $confirm" ;; esac
[ "$(id -u)" = 0 ] || die "installing needs root: sudo $0 $mode"

bin=$root/usr/local/bin lib=$root/usr/local/lib/coracle etc=$root/etc/coracle state=$root/var/lib/coracle
# The pods' groups; those of another root are others.
group=coracle$(printf %s "$root" | tr -c 'A-Za-z0-9' -)
run=$root/run/coracle log=$root/var/log/coracle
programs='coracle-server coracle-agent coracle-pause coracle'

if [ -n "$root" ]; then init=none
elif [ -d /run/systemd/system ]; then init=systemd
elif command -v rc-service >/dev/null 2>&1 && [ -d /etc/init.d ]; then init=openrc
else init=none; fi

# ---- what the machine can do ----

# controllers: those that the kernel really offers, on v2 or v1, whatever its command line says.
controllers() {
  cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || true
  awk '$4 == 1 && $2 != 0 {print $1}' /proc/cgroups 2>/dev/null || true
}
has_controller() { controllers | tr ' ' '\n' | grep -qx "$1"; }

module() {
  [ -d "/sys/module/$1" ] || modprobe -q "$1" 2>/dev/null || grep -qs "/$1\.ko" "/lib/modules/$(uname -r)/modules.builtin" ||
    [ ! -d "/lib/modules/$(uname -r)" ]
}

boot_file() { for f in /boot/firmware/cmdline.txt /boot/cmdline.txt; do [ ! -f "$f" ] || { echo "$f"; return; }; done; }

mend_memory() {
  line='cgroup_enable=memory cgroup_memory=1' file=$(boot_file)
  if [ -z "$file" ]; then
    say "  mend: add \"$line\" to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub) and reboot"
  elif [ $boot_line = yes ]; then
    grep -q cgroup_enable=memory "$file" || { cp "$file" "$file.before-coracle" && sed -i "1s/\$/ $line/" "$file"; }
    say "  \"$line\" is in $file now (the old one is $file.before-coracle): reboot"
  else
    say "  mend: run this again with --boot-line, or append \"$line\" to the line in $file, and reboot"
  fi
}

busy() {
  hex=$(printf ':%04X' "$1")
  awk -v p="$hex" -v s="$2" 'NR > 1 && $4 == s && substr($2, length($2) - 4) == p {found = 1} END {exit !found}' \
    "/proc/net/$3" "/proc/net/${3}6" 2>/dev/null
}

# check KIND: what makes it impossible ends the installation; what makes it weaker is said.
check() {
  version=$(uname -r) major=${version%%.*} rest=${version#*.} minor=${rest%%[!0-9]*}
  [ "$major" -gt 5 ] || { [ "$major" = 5 ] && [ "$minor" -ge 10 ]; } || die "the kernel is $version: Coracle needs 5.10 or later"
  if [ "$1" = server ]; then
    [ -n "$(installed_pid server)" ] || ! busy 6443 0A tcp || die "port 6443 is in use on this machine: another API server? (see: ss -ltnp)"
    return 0
  fi
  for c in cpu pids; do has_controller $c || say "warning: no cgroup controller $c: pods that limit it are refused"; done
  has_controller memory || { say "warning: the memory controller is off: pods with memory limits are refused"; mend_memory; }
  for m in overlay nf_tables veth; do module $m || die "the kernel has no module $m: install the distribution's kernel modules"; done
  for m in nft_masq nft_nat vxlan nft_reject_ipv4 crc32c_generic; do module $m || say "note: no module $m (it may be built in)"; done
}

# ---- the programs ----

arch() {
  case $(uname -m) in
    x86_64 | amd64) echo x86_64 ;;
    aarch64 | arm64) [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ] && echo armv7 || echo aarch64 ;;
    armv7* | armv8l) echo armv7 ;;
    *) die "no programs for a $(uname -m)" ;;
  esac
}

fetch() {
  if command -v curl >/dev/null 2>&1; then curl -fsSL --retry 3 -o "$2" "$1"; else wget -q -O "$2" "$1"; fi ||
    die "fetching $1 failed: nothing was changed"
}

# obtain DIR: the programs and their SHA256SUMS in DIR, every checksum right.
obtain() {
  [ -n "$from" ] || from=$(cd "$(dirname "$0")" && pwd)
  file=coracle-$(arch).tar.gz
  case $from in
    http://* | https://*)
      fetch "${from%/}/$file" "$1/$file"
      [ -n "$sum" ] || { fetch "${from%/}/SHA256SUMS" "$1/sums"; sum=$(awk -v f="$file" '$2 == f {print $1}' "$1/sums"); }
      unpack "$1/$file" "$1"
      ;;
    *)
      if [ -d "$from" ]; then
        [ -e "$from/SHA256SUMS" ] && [ -e "$from/coracle-agent" ] || from=$from/$(arch)
        [ -e "$from/SHA256SUMS" ] || die "$from has no programs with a SHA256SUMS: name them with --from"
        for p in $programs SHA256SUMS; do cp "$from/$p" "$1/$p" || die "$from has no $p"; done
      else
        [ -f "$from" ] || die "$from does not exist"
        beside=$(dirname "$from")/SHA256SUMS
        [ -n "$sum" ] || [ ! -f "$beside" ] || sum=$(awk -v f="$(basename "$from")" '$2 == f {print $1}' "$beside")
        cp "$from" "$1/$file"
        unpack "$1/$file" "$1"
      fi
      ;;
  esac
  (cd "$1" && sha256sum -c SHA256SUMS >/dev/null 2>&1) || die "the programs from $from do not have the checksums they should: nothing was changed"
  for p in $programs; do grep -q " $p\$" "$1/SHA256SUMS" || die "SHA256SUMS of $from does not name $p: nothing was changed"; done
}

unpack() {
  [ -n "$sum" ] || die "no checksum for $1: put its SHA256SUMS beside it or give --sha256; nothing was changed"
  [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sum" ] || die "the archive from $from does not have the checksum $sum: nothing was changed"
  tar -xzf "$1" -C "$2" && mv "$2"/coracle-*/* "$2"/ || die "the archive from $from cannot be unpacked: nothing was changed"
}

# put DIR: each program by rename, so that there is always a whole one.
put() {
  mkdir -p "$bin"
  for p in $programs; do
    cp "$1/$p" "$bin/.$p.new"
    chmod 755 "$bin/.$p.new"
    mv "$bin/.$p.new" "$bin/$p"
  done
  sync
}

keep_old() {
  rm -rf "$lib/previous.new"
  mkdir -p "$lib/previous.new"
  for p in $programs; do cp "$bin/$p" "$lib/previous.new/$p"; done
  rm -rf "$lib/previous"
  mv "$lib/previous.new" "$lib/previous"
  : >"$lib/upgrading"
}

take_back() {
  put "$lib/previous"
  rm -f "$lib/upgrading"
}

# ---- services ----

# Words for a shell: each in quotes.
quoted() { for w in "$@"; do printf " '%s'" "$(printf %s "$w" | sed "s/'/'\\\\''/g")"; done; }

# command_line KIND: what the service runs. The pods' groups lie beside every service, where no restart reaches them.
write_command() {
  mkdir -p "$etc" "$state/$1" "$log"
  chmod 700 "$state/$1" "$etc"
  [ $args_given = no ] && [ -e "$etc/$1.args" ] || printf '%s\n' "$args" >"$etc/$1.args"
  if [ "$1" = server ]; then
    set -- "$bin/coracle-server" --state "$state/server" --kubeconfig "$state/server/admin.kubeconfig"
    target=server
  else
    set -- "$bin/coracle-agent" --state "$state/agent" --pause "$bin/coracle-pause" --cgroup-root "/$group"
    [ -z "$name" ] || set -- "$@" --name "$name"
    [ -z "$join" ] || set -- "$@" --join "$join"
    target=agent
  fi
  # An upgrade keeps the name and the join line of the first run.
  if [ "$target" = server ] || [ ! -e "$etc/agent.start" ] || [ -n "$name$join" ]; then
    { echo '#!/bin/sh'; echo "exec$(quoted "$@") $(cat "$etc/$target.args")"; } >"$etc/$target.start.new"
  else
    { sed -n 1p "$etc/agent.start"; sed -n '2s/ #.*//p' "$etc/agent.start"; } >"$etc/agent.start.new"
  fi
  chmod 700 "$etc/$target.start.new"
  mv "$etc/$target.start.new" "$etc/$target.start"
}

write_service() {
  case $init in
    systemd)
      cat >"/etc/systemd/system/coracle-$1.service" <<UNIT
[Unit]
Description=Coracle $1
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=$etc/$1.start
Restart=always
RestartSec=2
# Pods and their pauses live on when this is restarted or upgraded.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMScoreAdjust=-900
ProtectClock=$([ "$1" = server ] && echo yes || echo no)
LockPersonality=yes

[Install]
WantedBy=multi-user.target
UNIT
      systemctl daemon-reload
      systemctl enable -q "coracle-$1"
      ;;
    openrc)
      cat >"/etc/init.d/coracle-$1" <<UNIT
#!/sbin/openrc-run
description="Coracle $1"
supervisor=supervise-daemon
command="$etc/$1.start"
output_log="$log/$1.log"
error_log="$log/$1.log"
respawn_delay=2
respawn_max=0
depend() { need net; after firewall; }
UNIT
      chmod 755 "/etc/init.d/coracle-$1"
      rc-update -q add "coracle-$1" default
      ;;
    none)
      mkdir -p "$lib"
      cat >"$lib/supervise" <<'LOOP'
#!/bin/sh
# supervise START PID LOG: runs it again whenever it ends; SIGTERM ends it, and its pods stay.
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; rm -f "$2" "$2.supervisor"; exit 0' TERM
echo $$ >"$2.supervisor"
while :; do
  "$1" >>"$3" 2>&1 </dev/null &
  child=$!
  echo $child >"$2"
  wait "$child" || true
  sleep 2 &
  wait $! || true
done
LOOP
      chmod 755 "$lib/supervise"
      ;;
  esac
}

service() { # service VERB KIND
  case $init in
    systemd) systemctl "$1" "coracle-$2" ;;
    openrc) rc-service -q "coracle-$2" "$1" ;;
    none)
      if [ "$1" != start ]; then stop_supervised "$2"; fi
      [ "$1" = stop ] || { mkdir -p "$run"; setsid "$lib/supervise" "$etc/$2.start" "$run/$2.pid" "$log/$2.log" </dev/null >/dev/null 2>&1 & }
      ;;
  esac
}

stop_supervised() {
  pid=$(cat "$run/$1.pid.supervisor" 2>/dev/null) || return 0
  grep -qs supervise "/proc/$pid/cmdline" || { rm -f "$run/$1.pid.supervisor"; return 0; }
  kill -TERM "$pid"
  i=0
  while kill -0 "$pid" 2>/dev/null && [ $i -lt 150 ]; do sleep 0.2; i=$((i + 1)); done
}

# installed_pid KIND: the running program's, nothing when it does not run.
installed_pid() {
  for p in /proc/[0-9]*; do
    exe=$(readlink "$p/exe" 2>/dev/null) || continue
    [ "${exe% (deleted)}" = "$bin/coracle-$1" ] || continue
    # The agent's own children (its name server) go by its program too.
    parent=$(awk '$1 == "PPid:" {print $2}' "$p/status" 2>/dev/null)
    case $(readlink "/proc/$parent/exe" 2>/dev/null) in "$bin/"*) ;; *) echo "${p#/proc/}"; return ;; esac
  done
}

# stays_up KIND: one process, from now on, for as long as --confirm says.
stays_up() {
  i=0 pid=''
  while [ $i -lt 50 ] && [ -z "$pid" ]; do sleep 0.2; pid=$(installed_pid "$1"); i=$((i + 1)); done
  [ -n "$pid" ] || return 1
  i=0
  while [ $i -lt "$confirm" ]; do
    sleep 1
    [ "$(installed_pid "$1")" = "$pid" ] || return 1
    i=$((i + 1))
  done
}

# ---- the three things it does ----

other_kind() { [ "$1" = server ] && echo agent || echo server; }

restart_all() { for kind in $1 $(other_kind "$1"); do [ ! -e "$etc/$kind.start" ] || service restart "$kind"; done; }

install_kind() {
  check "$1"
  [ "$1" = server ] || [ -n "$join" ] || [ -e "$etc/agent.start" ] || die "a node joins with --join LINE (on the server: coracle token create)"
  mkdir -p "$lib"
  # A run that was cut off in the middle may have left half of an upgrade.
  [ ! -e "$lib/upgrading" ] || take_back
  stage=$(mktemp -d "$lib/stage.XXXXXX")
  trap 'rm -rf "$stage"' EXIT
  trap 'exit 130' INT TERM HUP
  obtain "$stage"
  upgrade=no
  if [ -e "$bin/coracle-$1" ] && [ -e "$etc/$1.start" ]; then upgrade=yes; fi
  [ ! -e "$bin/coracle-agent" ] || keep_old
  put "$stage"
  rm -rf "$lib/stage."*
  write_command "$1"
  write_service "$1"
  if [ $upgrade = no ]; then confirm=$((confirm < 5 ? confirm : 5)); fi
  restart_all "$1"
  if stays_up "$1"; then
    rm -f "$lib/upgrading"
    say "coracle-$1 $("$bin/coracle-$1" --version) runs"
    [ "$init" != none ] || say "no init system is known here: let one run \"$lib/supervise $etc/$1.start $run/$1.pid $log/$1.log\" at boot"
    return 0
  fi
  if [ -e "$lib/upgrading" ]; then
    take_back
    restart_all "$1"
    say "the new coracle-$1 did not stay up: the old programs are back and run" >&2
    exit 3
  fi
  die "coracle-$1 does not stay up; see $([ $init = systemd ] && echo "journalctl -u coracle-$1" || echo "$log/$1.log")"
}

# Pods outlive their agent: they are ended by their groups.
end_pods() {
  i=0
  while [ $i -lt 100 ]; do
    pids=$(find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un)
    for p in /proc/[0-9]*; do case $(readlink "$p/exe" 2>/dev/null) in "$bin/coracle"*) pids="$pids ${p#/proc/}" ;; esac; done
    [ -n "$(echo $pids)" ] || break
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
    i=$((i + 1))
  done
  find /sys/fs/cgroup -depth -type d \( -path "*/$group/*" -o -path "*/$group" \) -exec rmdir {} \; 2>/dev/null || true
}

uninstall() {
  agent=no
  [ ! -e "$etc/agent.start" ] || agent=yes
  for kind in agent server; do
    [ -e "$etc/$kind.start" ] || continue
    case $init in
      systemd) systemctl disable -q --now "coracle-$kind" || true; rm -f "/etc/systemd/system/coracle-$kind.service" ;;
      openrc) rc-service -q "coracle-$kind" stop || true; rc-update -q del "coracle-$kind" || true; rm -f "/etc/init.d/coracle-$kind" ;;
      none) service stop "$kind" ;;
    esac
  done
  [ $init != systemd ] || systemctl daemon-reload
  if [ $agent = yes ]; then
    end_pods
    awk -v a="$run" -v b="$state" 'index($2, a) == 1 || index($2, b) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m"; done
    if command -v nft >/dev/null 2>&1; then
      nft list tables | awk '$3 ~ /^coracle/ {print $2, $3}' | while read -r family table; do nft delete table "$family" "$table"; done
    fi
  fi
  for p in $programs; do rm -f "$bin/$p" "$bin/.$p.new"; done
  rm -rf "$lib" "$etc" "$state" "$run" "$log"
  say "nothing of Coracle is left"
}

case $mode in
  server | agent) install_kind "$mode" ;;
  check) check agent; say "this machine can be a node" ;;
  uninstall) uninstall ;;
esac
