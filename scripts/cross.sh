#!/usr/bin/env bash
# cross.sh [ARCH…]: builds the static release programs for aarch64, armv7 and x86_64 (all three when none is named).
#
#   dist/ARCH/                the programs, with their SHA256SUMS
#   dist/coracle-ARCH.tar.gz  the same with the installer, to be handed to a machine or put on a web server
#   dist/SHA256SUMS           of the archives
#
# Each program is started once, by emulation where the processor is another one.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"

case ${1:-} in -h | --help) sed -n '2,8s/^# \?//p' "$0"; exit 0 ;; esac

programs=(coracle-server coracle-agent coracle-pause coracle)

triple_of() {
  case $1 in
    x86_64 | aarch64) echo "$1-unknown-linux-musl" ;;
    armv7) echo armv7-unknown-linux-musleabihf ;;
    *) die "no such architecture: $1 (there are aarch64, armv7 and x86_64)" ;;
  esac
}

packages_of() {
  echo gcc libc6-dev binutils
  case $1 in
    x86_64) [ "$(uname -m)" = x86_64 ] || echo gcc-x86-64-linux-gnu libc6-dev-amd64-cross qemu-user-static ;;
    aarch64) [ "$(uname -m)" = aarch64 ] || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static ;;
    armv7) echo gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static ;;
  esac
}

# ---- the standard library of a target ----

# need_std TARGET: by rustup; where it cannot fetch the dated archive, the same archive without a date.
need_std() {
  local sysroot
  sysroot=$(rustc --print sysroot)
  [ ! -d "$sysroot/lib/rustlib/$1" ] || return 0
  rustup target add "$1" || std_by_hand "$1" "$sysroot"
}

# manifest_value SYSROOT TARGET KEY: what the toolchain's own manifest says of a target's standard library.
manifest_value() {
  awk -v section="[pkg.rust-std.target.$2]" -v key="$3" '
    /^\[/ { inside = ($0 == section) }
    inside && $1 == key { gsub(/"/, "", $3); print $3; exit }' "$1/lib/rustlib/multirust-channel-manifest.toml"
}

# std_by_hand TARGET SYSROOT: the archive has to be the one whose hash the toolchain's manifest gives.
std_by_hand() {
  local target=$1 sysroot=$2 url hash work
  url=$(manifest_value "$sysroot" "$target" xz_url)
  hash=$(manifest_value "$sysroot" "$target" xz_hash)
  [ -n "$url" ] && [ -n "$hash" ] || die "the toolchain in $sysroot knows no standard library for $target"
  # …/dist/2026-04-16/rust-std-… → …/dist/rust-std-…, at the server that rustup is told to use.
  url=$(sed -E 's#/dist/[0-9]{4}-[0-9]{2}-[0-9]{2}/#/dist/#' <<<"$url")
  [ -z "${RUSTUP_DIST_SERVER:-}" ] || url=${RUSTUP_DIST_SERVER%/}/dist/${url##*/dist/}
  install_packages curl xz-utils
  work=$(mktemp -d "$sysroot/lib/rustlib/.std-XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  say "fetching $url"
  curl -fsSL --retry 3 -o "$work/std.tar.xz" "$url" || die "fetching $url failed: is the network up?"
  echo "$hash  $work/std.tar.xz" | sha256sum -c --quiet - || die "$url is not what the toolchain's manifest describes: nothing was installed"
  tar -xJf "$work/std.tar.xz" -C "$work" --strip-components=4 --wildcards "*/rust-std-$target/lib/rustlib/$target"
  mv "$work/$target" "$sysroot/lib/rustlib/$target"
  rm -rf "$work"
  trap - EXIT
}

# ---- building ----

# readelf_static FILE: no interpreter and no shared libraries.
readelf_static() { ! readelf -lW "$1" | grep -q INTERP && ! readelf -dW "$1" | grep -q NEEDED; }

# version_of ARCH PROGRAM: what it prints; a program that does not start is not shipped.
version_of() {
  local run=()
  [ "$1" = "$(uname -m)" ] || run=("qemu-${1/armv7/arm}-static")
  "${run[@]}" "$2" --version
}

build_for() {
  local arch=$1 target packages program out
  target=$(triple_of "$arch")
  mapfile -t packages < <(packages_of "$arch" | xargs -n1)
  install_packages "${packages[@]}"
  need_rust
  need_std "$target"
  cargo build --locked --release --target "$target" -p coracle-server -p coracle-agent -p coracle-pause -p coracle-cli
  out=$ROOT/dist/$arch
  mkdir -p "$out"
  for program in "${programs[@]}"; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/release/$program" "$out/$program"
    readelf_static "$out/$program" || die "$out/$program is not static"
    version_of "$arch" "$out/$program" >/dev/null || die "$out/$program does not start"
  done
  (cd "$out" && sha256sum "${programs[@]}" >SHA256SUMS)
  pack "$arch"
  say "$out: $(version_of "$arch" "$out/coracle-agent")"
  (cd "$out" && stat -c '  %n  %s bytes' "${programs[@]}" >&2)
}

# pack ARCH: the archive that scripts/install.sh takes, the same bytes for the same programs.
pack() {
  local name=coracle-$1 work
  work=$(mktemp -d)
  mkdir "$work/$name"
  cp "dist/$1"/* scripts/install.sh LICENSE "$work/$name/"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work" -cf - "$name" | gzip -n9 >"dist/$name.tar.gz.new"
  mv "dist/$name.tar.gz.new" "dist/$name.tar.gz"
  rm -rf "$work"
  (cd dist && sha256sum coracle-*.tar.gz >SHA256SUMS)
}

[ $# -gt 0 ] || set -- aarch64 armv7 x86_64
for arch in "$@"; do triple_of "$arch" >/dev/null; done
for arch in "$@"; do build_for "$arch"; done
