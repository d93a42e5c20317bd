#!/usr/bin/env bash
# install.sh BIN WORK: scripts/install.sh with ready-made programs, below a root of its own and without an
# init system, as on a machine that has none.
. "$(dirname "$0")/lib.sh"

bin=$(realpath "$1") work=$(realpath -m "$2")
root=$work/root dist=$work/dist
install() { sh "$ROOT/scripts/install.sh" "$@" --root "$root" --confirm 2; }
server() { install server --from "$1" --args '--listen 127.0.0.1:18743' "${@:2}"; }
pid() { cat "$root/run/coracle/server.pid"; }
serves() { "$root/usr/local/bin/coracle" --kubeconfig "$root/var/lib/coracle/server/admin.kubeconfig" get --raw /readyz; }
state() { find "$root" -type f ! -path '*/log/*' ! -path '*/server/*' -exec sha256sum {} + | sort -k 2; pid; }
archive() { (cd "$work" && cp -r "$1" coracle-"$(uname -m)" && tar -czf "$2/coracle-$(uname -m).tar.gz" coracle-"$(uname -m)" && rm -r coracle-"$(uname -m)"); }

prepare() {
  mkdir -p "$dist" "$root"
  for name in coracle-server coracle-agent coracle-pause coracle; do cp "$bin/$name" "$dist/"; done
  (cd "$dist" && sha256sum coracle* >SHA256SUMS)
}

help_and_nonsense() {
  sh "$ROOT/scripts/install.sh" --help | grep -q -- --uninstall
  refused "unknown argument" install --frobnicate
  refused "joins with --join" install agent --from "$dist"
  refused "takes seconds" sh "$ROOT/scripts/install.sh" server --confirm soon
  refused "does not exist" server "$work/nowhere.tar.gz"
  refused "needs root" setpriv --reuid 65534 --regid 65534 --clear-groups sh "$ROOT/scripts/install.sh" server
  [ -z "$(find "$root" -type f)" ] || fail "files were made: $(find "$root" -type f)"
}

a_server_is_installed_and_serves() {
  server "$dist"
  eventually serves
  [ "$(stat -c %a "$root/etc/coracle")" = 700 ]
}

what_is_killed_is_started_again() {
  local before
  before=$(pid)
  kill -KILL "$before"
  again() { [ "$(pid)" != "$before" ] && serves; }
  eventually again
}

a_changed_program_or_archive_is_refused() {
  local before
  before=$(state)
  cp -r "$dist" "$work/tampered"
  echo x >>"$work/tampered/coracle-agent"
  refused "checksums they should" server "$work/tampered"
  sed -i '/coracle-agent/d' "$work/tampered/SHA256SUMS"
  refused "does not name coracle-agent" server "$work/tampered"
  mkdir "$work/archives"
  archive "$dist" "$work/archives"
  refused "no checksum for" server "$work/archives/coracle-$(uname -m).tar.gz"
  refused "does not have the checksum" server "$work/archives/coracle-$(uname -m).tar.gz" --sha256 "$(printf '0%.0s' {1..64})"
  diff <(echo "$before") <(state)
}

an_archive_upgrades_in_place() {
  (cd "$work/archives" && sha256sum *.tar.gz >SHA256SUMS)
  server "$work/archives/coracle-$(uname -m).tar.gz"
  eventually serves
  [ ! -e "$root/usr/local/lib/coracle/upgrading" ] || fail "the upgrade was not confirmed"
}

programs_that_fail_are_taken_back() {
  local code=0
  cp -r "$dist" "$work/broken"
  printf '#!/bin/sh\nexit 1\n' >"$work/broken/coracle-server"
  (cd "$work/broken" && sha256sum coracle* >SHA256SUMS)
  server "$work/broken" || code=$?
  [ $code = 3 ] || fail "it exited $code"
  cmp "$dist/coracle-server" "$root/usr/local/bin/coracle-server"
  eventually serves
}

an_interrupted_upgrade_is_undone_by_the_next_run() {
  # As a power cut leaves it: the old programs kept, half of the new ones in place.
  touch "$root/usr/local/lib/coracle/upgrading"
  cp "$work/broken/coracle-server" "$root/usr/local/bin/.new"
  mv "$root/usr/local/bin/.new" "$root/usr/local/bin/coracle-server"
  refused "checksums they should" server "$work/tampered-again"
  cmp "$dist/coracle-server" "$root/usr/local/bin/coracle-server"
  server "$dist"
  eventually serves
}

uninstall_leaves_nothing() {
  local before
  before=$(pid)
  install --uninstall
  ! kill -0 "$before" 2>/dev/null || grep -q ') Z ' "/proc/$before/stat" || fail "the server runs on"
  [ -z "$(find "$root" -type f -o -type l)" ] || fail "left: $(find "$root" -type f)"
  install --uninstall
}

rm -rf "$work"
prepare
cp -r "$dist" "$work/tampered-again" && echo x >>"$work/tampered-again/coracle"
trap 'install --uninstall >/dev/null 2>&1; rm -rf "$work"' EXIT
for name in help_and_nonsense a_server_is_installed_and_serves what_is_killed_is_started_again \
  a_changed_program_or_archive_is_refused an_archive_upgrades_in_place programs_that_fail_are_taken_back \
  an_interrupted_upgrade_is_undone_by_the_next_run uninstall_leaves_nothing; do
  case_of $name
done
summary
