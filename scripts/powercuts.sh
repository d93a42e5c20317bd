#!/usr/bin/env bash
# powercuts.sh [N]: cuts the power of an emulated node N times (default 1000), an equal share of it in each of the
# stages pulling, unpacking, starting, persisting and collecting; CORACLE_SEED=… replays the moments.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"

case ${1:-} in -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; esac
case ${1:-1000} in *[!0-9]*) die "how many cuts? a number, not ${1@Q}" ;; esac
install_packages qemu-system-x86 cpio kmod zstd e2fsprogs binutils dash util-linux debian-archive-keyring \
  docker-registry skopeo iproute2 nftables gcc libc6-dev
need_rust
export CORACLE_VM=$ROOT/target/vm CORACLE_CUTS=$(((${1:-1000} + 4) / 5))
bash scripts/vm.sh amd64 "$CORACLE_VM/amd64"
cargo build --locked --workspace --bins
cargo test --locked -p coracle-tests --test vm -- --nocapture power_cuts
