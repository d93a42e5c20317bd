# Shared by the scripts: messages, installing what is missing, building. Sourced, not run.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step NAME COMMAND…: runs a step with its output in a log; a failure names the step and shows the log's end.
# Never call it as a condition: inside `if`, `&&` and `||` the shell goes on after a failed command.
STEP_LOG=${STEP_LOG:-/dev/null}
step() {
  local name=$1 started=$SECONDS code ticker=''
  shift
  printf '  %-44s ' "$name" >&2
  [ ! -t 2 ] || { tick "$name" "$started" & ticker=$!; }
  set +e
  (set -e; "$@") >"$STEP_LOG" 2>&1
  code=$?
  set -e
  if [ -n "$ticker" ]; then
    { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
    printf '\r\033[K  %-44s ' "$name" >&2
  fi
  if [ $code = 0 ]; then
    printf 'done (%d s)\n' $((SECONDS - started)) >&2
    return 0
  fi
  printf 'FAILED (exit %d)\n' "$code" >&2
  say "error: step \"$name\" failed; the last lines of its log ($STEP_LOG):"
  tail -n 20 "$STEP_LOG" | sed 's/^/    /' >&2
  exit 1
}

# tick NAME START: on a terminal, a long step shows its time and the last thing it said.
tick() {
  local last
  exec 9<&-
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    last=$(tail -n 1 "$STEP_LOG" 2>/dev/null | tr -dc '[:print:]' | cut -c 1-40)
    printf '\r\033[K  %-44s %d s  %s' "$1" $((SECONDS - $2)) "$last" >&2
  done
}

# install_packages PACKAGE…: with the distribution's own package manager, only what is missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "installing ${missing[*]} needs root: run this as root, or: sudo apt-get install ${missing[*]}"
  command -v apt-get >/dev/null || die "install ${missing[*]} (named as in Debian) by this distribution's own means, then run this again"
  (
    # A registry or database package starts its service on a machine with an init system; ours run on ports of their own.
    policy=/usr/sbin/policy-rc.d mark='# for the time of an installation by coracle'
    if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
      trap 'rm -f "$policy"' EXIT
      trap 'exit 130' INT TERM
      printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
      chmod 755 "$policy"
    fi
    apt_get_install "${missing[@]}" ||
      { dpkg --configure -a && apt-get -o DPkg::Lock::Timeout=300 -qq update && apt_get_install "${missing[@]}"; }
  )
}

apt_get_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends install "$@"
}

# need_rust: a toolchain as rust-toolchain.toml pins it: the caller's, or that of the user who called sudo.
need_rust() {
  local home
  for home in "$HOME" "$(user_home)"; do
    command -v cargo >/dev/null && return
    [ ! -x "$home/.cargo/bin/cargo" ] || PATH=$home/.cargo/bin:$PATH
  done
  command -v cargo >/dev/null ||
    die "no Rust toolchain: install rustup (https://rustup.rs), then run this again (rust-toolchain.toml names the version)"
}

user_home() { [ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6; }

# as_user COMMAND…: as the user who called sudo, so that what is built is theirs.
as_user() {
  if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ "$(id -u)" = 0 ]; then
    runuser -u "$SUDO_USER" -- env HOME="$(user_home)" PATH="$PATH" "$@"
  else
    "$@"
  fi
}
