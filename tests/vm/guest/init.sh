#!/bin/busybox sh
# The first program of a test's machine, out of the initramfs: loads the modules, mounts the disk and
# hands over to its /sbin/init. (pivot_root, which every container needs, fails on an initramfs.)
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
  $b insmod "$module" || echo "MACHINE: $module does not load"
done
options=$($b sed -n 's/.*machine\.mount=\([^ ]*\).*/\1/p' /proc/cmdline)
tries=0
until [ -b /dev/vda ] || [ $tries = 300 ]; do
  tries=$((tries + 1))
  $b usleep 100000
done
$b mount -t ext4 -o "${options:-rw}" /dev/vda /new || echo "MACHINE: the disk does not mount"
$b umount /proc /sys
$b mount --move /dev /new/dev
exec $b switch_root /new /sbin/init
