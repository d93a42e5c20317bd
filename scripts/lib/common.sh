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
  local name=$1 started=$SECONDS code
  shift
  printf '  %-44s ' "$name" >&2
  set +e
  (set -e; "$@") >"$STEP_LOG" 2>&1
  code=$?
  set -e
  if [ $code = 0 ]; then
    printf 'done (%d s)\n' $((SECONDS - started)) >&2
    return 0
  fi
  printf 'FAILED (exit %d)\n' "$code" >&2
  say "error: step \"$name\" failed; the last lines of its log ($STEP_LOG):"
  tail -n 20 "$STEP_LOG" | sed 's/^/    /' >&2
  exit 1
}

# install_packages PACKAGE…: with the distribution's own package manager, only what is missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "installing ${missing[*]} needs root: run this as root, or: sudo apt-get install ${missing[*]}"
  # A registry or database package starts its service on a machine with an init system; ours run on ports of their own.
  local policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=yes
  fi
  local code=0
  apt_get_install "${missing[@]}" || { apt-get -o DPkg::Lock::Timeout=300 -qq update && apt_get_install "${missing[@]}"; } || code=$?
  [ "$made" = yes ] && rm -f "$policy"
  return $code
}

apt_get_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends install "$@"
}

# need_rust: a toolchain as rust-toolchain.toml pins it.
need_rust() {
  command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
  command -v cargo >/dev/null ||
    die "no Rust toolchain: install rustup (https://rustup.rs), then run this again (rust-toolchain.toml names the version)"
}
