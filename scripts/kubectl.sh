#!/usr/bin/env bash
# kubectl.sh MINOR DEST: puts a kubectl of that minor version (1.20, 1.32, 1.36 …) at DEST.
# It comes from the Debian suite that carries it, is unpacked and not installed, and the system's own
# package sources stay as they are. Exits 3 where no Debian archive is configured.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/debian.sh"

[ $# = 2 ] || die "usage: kubectl.sh MINOR DEST"
minor=$1 dest=$2
case $minor in
  1.20) suite=bookworm package=kubernetes-client ;;
  1.32) suite=trixie package=kubectl ;;
  *) suite=sid package=kubectl ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
code=0
debian_open "$work" "$suite" "$(dpkg --print-architecture)" || code=$?
[ $code != 3 ] || { say "no Debian archive among the package sources: no kubectl $minor from there"; exit 3; }
[ $code = 0 ] || exit $code
version=$(debian_version "$package")
[ -n "$version" ] || die "Debian $suite has no $package"
debian_unpack "$package=$version" "$work/unpacked"
mkdir -p "$(dirname "$dest")"
install -m 755 "$work/unpacked/usr/bin/kubectl" "$dest.new"
mv "$dest.new" "$dest"
case $("$dest" version --client 2>/dev/null) in
  *v"$minor".*) ;;
  *) say "note: asked for kubectl $minor, Debian $suite has $version" ;;
esac
