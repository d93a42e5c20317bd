#!/usr/bin/env bash
# kubectl.sh MINOR DEST: puts a kubectl of that minor version (1.20, 1.32, 1.36 …) at DEST.
# It comes from the Debian suite that carries it, is unpacked and not installed, and the system's own
# package sources stay as they are. Exits 3 where no Debian archive is configured.
. "$(dirname "$0")/lib/common.sh"

[ $# = 2 ] || die "usage: kubectl.sh MINOR DEST"
minor=$1 dest=$2
case $minor in
  1.20) suite=bookworm package=kubernetes-client ;;
  1.32) suite=trixie package=kubectl ;;
  *) suite=sid package=kubectl ;;
esac

archive() {
  { sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources
    sed -nE 's/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null | grep -E '/debian/?$' | head -1
}

mirror=$(archive) || true
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -n "$mirror" ] && [ -e "$keyring" ] || { say "no Debian archive among the package sources: no kubectl $minor from there"; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,parts}
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
options=(-o Dir::State::Lists="$work/lists" -o Dir::Etc::sourcelist="$work/sources.list"
  -o Dir::Etc::sourceparts="$work/parts" -o Dir::Cache="$work/cache" -o Dir::Etc::preferences=/dev/null
  -o Dir::Etc::preferencesparts="$work/parts" -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update
# A vendor's package of the same name carries an epoch; Debian's does not.
version=$(apt-cache "${options[@]}" madison "$package" | awk '{print $3}' | grep -v '^1:' | head -1)
[ -n "$version" ] || die "Debian $suite has no $package"
(cd "$work" && apt-get "${options[@]}" -qq download "$package=$version" && dpkg -x "$package"_*.deb unpacked)
mkdir -p "$(dirname "$dest")"
install -m 755 "$work/unpacked/usr/bin/kubectl" "$dest.new"
mv "$dest.new" "$dest"
case $("$dest" version --client 2>/dev/null) in
  *v"$minor".*) ;;
  *) say "note: asked for kubectl $minor, Debian $suite has $version" ;;
esac
