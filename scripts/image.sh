#!/usr/bin/env bash
# image.sh LAYOUT TAG ARCH CONFIG LAYER…: writes a reproducible OCI layout of one image.
#   ARCH    amd64, arm64, arm
#   CONFIG  the image's `config` object as JSON, e.g. '{"Cmd":["/bin/true"]}'
#   LAYER   a directory; each becomes one gzip layer, the first is the lowest
# Called again with the same LAYOUT and TAG and another ARCH it makes the tag a multi-platform index.
. "$(dirname "$0")/lib/common.sh"

[ $# -ge 5 ] || die "usage: image.sh LAYOUT TAG ARCH CONFIG LAYER…"
layout=$1 tag=$2 arch=$3 config=$4
shift 4
blobs=$layout/blobs/sha256
mkdir -p "$blobs"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

# store FILE: moves a file to its digest's place and prints the digest's hex form and its size.
store() {
  local hex size
  hex=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$blobs/$hex"
  echo "$hex $size"
}

descriptor() { printf '{"mediaType":"%s","digest":"sha256:%s","size":%s%s}' "$1" "$2" "$3" "${4:-}"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layers='' diffs=''
for layer in "$@"; do
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$layer" -cf "$work/layer.tar" .
  diff=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  gzip -n -6 "$work/layer.tar"
  read -r hex size < <(store "$work/layer.tar.gz")
  layers+=${layers:+,}$(descriptor application/vnd.oci.image.layer.v1.tar+gzip "$hex" "$size")
  diffs+=${diffs:+,}\"sha256:$diff\"
done

printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' "$arch" "$config" "$diffs" >"$work/config"
read -r config_hex config_size < <(store "$work/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
  "$(descriptor application/vnd.oci.image.config.v1+json "$config_hex" "$config_size")" "$layers" >"$work/manifest"
read -r hex size < <(store "$work/manifest")

# The platforms of a tag, one descriptor a line, become its index.
entries=$layout/.platforms-$tag
entry=$(descriptor application/vnd.oci.image.manifest.v1+json "$hex" "$size" ",\"platform\":{\"os\":\"linux\",\"architecture\":\"$arch\"}")
{ grep -v "\"architecture\":\"$arch\"" "$entries" 2>/dev/null || true; echo "$entry"; } >"$work/entries"
mv "$work/entries" "$entries"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "$(paste -sd, "$entries")" >"$work/index"
read -r hex size < <(store "$work/index")
descriptor application/vnd.oci.image.index.v1+json "$hex" "$size" ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag\"}" >"$layout/.tag-$tag"
printf '{"schemaVersion":2,"manifests":[%s]}' "$(for t in "$layout"/.tag-*; do cat "$t"; echo; done | paste -sd,)" >"$layout/index.json"
