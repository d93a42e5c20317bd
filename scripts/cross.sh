#!/usr/bin/env bash
# cross.sh ARCH…: builds the static release binaries for aarch64 or x86_64 into dist/ARCH, with checksums.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"

[ $# -gt 0 ] && [ "$1" != --help ] && [ "$1" != -h ] || { sed -n '2s/^# //p' "$0"; [ $# -gt 0 ]; exit; }

programs=(coracle-server coracle-agent coracle-pause coracle)

# readelf_static FILE: no interpreter and no shared libraries.
readelf_static() { ! readelf -lW "$1" | grep -q INTERP && ! readelf -dW "$1" | grep -q NEEDED; }

build_for() {
  local arch=$1 target=$1-unknown-linux-musl program out
  case $arch in
    x86_64) install_packages gcc libc6-dev binutils ;;
    aarch64) install_packages gcc libc6-dev binutils gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    *) die "no such architecture: $arch (there are aarch64 and x86_64)" ;;
  esac
  need_rust
  [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup target add "$target"
  cargo build --locked --release --target "$target" -p coracle-server -p coracle-agent -p coracle-pause -p coracle-cli
  out=$ROOT/dist/$arch
  mkdir -p "$out"
  for program in "${programs[@]}"; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/release/$program" "$out/$program"
    readelf_static "$out/$program" || die "$out/$program is not static"
  done
  (cd "$out" && sha256sum "${programs[@]}" >SHA256SUMS)
  say "$out:"
  (cd "$out" && stat -c '  %n  %s bytes' "${programs[@]}" >&2)
}

for arch in "$@"; do build_for "$arch"; done
