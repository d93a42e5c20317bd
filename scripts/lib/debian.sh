# Packages out of Debian's archive, unpacked and never installed. Sourced after common.sh.
# shellcheck shell=bash
#
# The system's own package sources, lists and caches stay as they are, so a package of another suite
# or another architecture can be had beside them.

# debian_open WORK SUITE ARCH: an apt of its own in WORK; returns 3 where no Debian archive is configured.
debian_open() {
  local work=$1 suite=$2 arch=$3 archive keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  archive=$(debian_archive) || true
  [ -n "$archive" ] && [ -e "$keyring" ] || return 3
  mkdir -p "$work"/{lists/partial,cache/archives/partial,parts}
  : >"$work/status"
  echo "deb [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
  DEBIAN=(-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Etc::sourcelist="$work/sources.list"
    -o Dir::Etc::sourceparts="$work/parts" -o Dir::Cache="$work/cache" -o Dir::Etc::preferences=/dev/null
    -o Dir::Etc::preferencesparts="$work/parts" -o APT::Sandbox::User=root -o APT::Architecture="$arch"
    -o APT::Architectures="$arch")
  apt-get "${DEBIAN[@]}" -qq update
}

# The archive among the system's package sources.
debian_archive() {
  { sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources
    sed -nE 's/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null | grep -E '/debian/?$' | head -1
}

# debian_depends PACKAGE: what a package depends on first: of a kernel's metapackage, the kernel.
debian_depends() { apt-cache "${DEBIAN[@]}" depends "$1" | sed -n 's/^ *Depends: *//p' | head -1; }

# debian_version PACKAGE: the archive's own; a vendor's package of the same name carries an epoch.
debian_version() { apt-cache "${DEBIAN[@]}" madison "$1" | awk '{print $3}' | grep -v '^1:' | head -1; }

# debian_unpack PACKAGE[=VERSION] DIR
debian_unpack() {
  local into=$2
  mkdir -p "$into"
  (cd "$into" && rm -f ./*.deb && apt-get "${DEBIAN[@]}" -qq download "$1" && dpkg -x ./*.deb . && rm -f ./*.deb)
}
