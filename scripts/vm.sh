#!/usr/bin/env bash
# vm.sh ARCH DIR: puts what a virtual machine (amd64, arm64) boots with into DIR: vmlinuz, initrd, busybox.
# Kernel and busybox are Debian's, unpacked and not installed, and kept in DIR; the initramfs is made anew.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/debian.sh"

[ $# = 2 ] || die "usage: vm.sh ARCH DIR"
arch=$1 dir=$(realpath -m "$2")
case $arch in amd64 | arm64) ;; *) die "no such architecture: $arch (there are amd64 and arm64)" ;; esac
suite=${VM_SUITE:-bookworm}

# What containers, their network and the machine's own devices need; modprobe adds what these need.
modules=(virtio_pci virtio_mmio virtio_blk virtio_net virtio_rng virtio_console ext4 loop overlay
  veth bridge br_netfilter vxlan tun crc32c_generic
  nf_conntrack nf_conntrack_netlink nf_nat nf_tables nft_ct nft_nat nft_chain_nat nft_masq nft_redir nft_numgen nft_hash nft_log nft_limit
  nft_reject nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nf_log_syslog nft_fib nft_fib_ipv4 nft_fib_ipv6 nft_fib_inet)

# fetch: the kernel tree and busybox; a directory with its final name is whole.
fetch() {
  local work code=0 package
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  debian_open "$work/apt" "$suite" "$arch" || code=$?
  [ $code = 0 ] || die "no Debian archive among the package sources: the virtual machine's kernel comes from there"
  package=$(debian_depends "linux-image-cloud-$arch")
  [ -n "$package" ] || die "Debian $suite has no linux-image-cloud-$arch"
  say "fetching $package"
  debian_unpack "$package" "$work/kernel"
  debian_unpack busybox-static "$work/busybox"
  rm -rf "$dir/kernel" "$dir/busybox"
  mkdir -p "$dir"
  install -m 755 "$work"/busybox/*bin/busybox "$dir/busybox" 2>/dev/null || install -m 755 "$work"/busybox/usr/bin/busybox "$dir/busybox"
  mv "$work/kernel" "$dir/kernel.new"
  mv "$dir/kernel.new" "$dir/kernel"
}

# module_files: every module's file, in the order in which they load.
module_files() {
  local base=$1 version=$2 name
  for name in "${modules[@]}"; do
    modprobe --dirname "$base" --set-version "$version" --ignore-install --show-depends "$name" 2>/dev/null ||
      say "note: this kernel has no module $name"
  done | awk '$1 == "insmod" && !seen[$2]++ {print $2}'
}

initramfs() {
  local root tree version base file number=0 name
  tree=$(find "$dir/kernel" -path '*/lib/modules/*' -maxdepth 5 -name kernel -print -quit)
  [ -n "$tree" ] || die "$dir/kernel has no modules: remove it and run this again"
  tree=$(dirname "$tree")
  version=$(basename "$tree") base=${tree%/lib/modules/*}
  [ -e "$tree/modules.dep" ] || depmod --basedir "$base" "$version"
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,modules,proc,sys,dev,new}
  install -m 755 "$dir/busybox" "$root/bin/busybox"
  install -m 755 "$ROOT/tests/vm/guest/init.sh" "$root/init"
  for file in $(module_files "$base" "$version"); do
    name=$(printf '%02d-%s' $number "$(basename "$file")")
    case $file in
      *.xz) xz -dc "$file" >"$root/modules/${name%.xz}" ;;
      *.zst) zstd -qdc "$file" >"$root/modules/${name%.zst}" ;;
      *) cp "$file" "$root/modules/$name" ;;
    esac
    number=$((number + 1))
  done
  [ $number -gt 10 ] || die "only $number modules found in $tree"
  (cd "$root" && find . -print0 | sort -z | cpio --null -o -H newc -R 0:0 --quiet | gzip -n -1) >"$dir/initrd.new"
  mv "$dir/initrd.new" "$dir/initrd"
  cp "$(find "$dir/kernel/boot" -name 'vmlinuz-*' -print -quit)" "$dir/vmlinuz"
  rm -rf "$root"
}

[ -d "$dir/kernel" ] && [ -x "$dir/busybox" ] || fetch
initramfs
