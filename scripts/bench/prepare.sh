# Everything that needs a network or a compiler: packages, programs, images. Sourced by bench.sh.
# shellcheck shell=bash

# The same client that measures runs in the pods, to print the time of its own start.
make_images() {
  local images=$TOOLS/images root=$TOOLS/roots applet
  rm -rf "$images" "$root"
  mkdir -p "$images" "$root"/{small/bin,small/etc,small/tmp,tool/bin,bundle/bin}
  install -m 755 "$(command -v busybox)" "$root/small/bin/busybox"
  for applet in sh cat date echo ls sleep httpd true; do ln -s busybox "$root/small/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/small/etc/passwd"
  install -m 755 "$BENCH" "$root/tool/bin/coracle-bench"
  bash "$ROOT/scripts/image.sh" "$images/small" 1 amd64 '{"Env":["PATH=/bin"],"Cmd":["/bin/sh"]}' "$root"/{small,tool}
  # Four layers of 25 MB that do not compress.
  local layers=() layer
  for layer in 1 2 3 4; do
    mkdir -p "$root/large-$layer"
    head -c 25000000 /dev/urandom >"$root/large-$layer/data-$layer"
    layers+=("$root/large-$layer")
  done
  bash "$ROOT/scripts/image.sh" "$images/large" 1 amd64 '{"Env":["PATH=/bin"],"Cmd":["/bin/sh"]}' "$root"/{small,tool} "${layers[@]}"
  rm -rf "$root"/large-*
  # The root file system of `container`: the same busybox, as a plain directory.
  install -m 755 "$(command -v busybox)" "$root/bundle/bin/busybox"
  ln -s busybox "$root/bundle/bin/true"
  mkdir -p "$root"/bundle/{dev,proc,sys,etc,run}
}

# seccomp_names: the names of the calls that Coracle's own filter always allows, for the references.
seccomp_names() {
  local header=/usr/include/x86_64-linux-gnu/asm/unistd_64.h
  awk '
    FNR == NR { if ($1 == "#define" && $2 ~ /^__NR_/) name[$3] = substr($2, 6); next }
    /^pub static X86_64/ { inside = 1 }
    inside && /gated:/ { exit }
    inside && /\([0-9]+, [0-9]+\)/ {
      gsub(/[(),]/, " "); for (i = $1; i <= $2; i++) if (i in name) print name[i]
    }' "$header" "$ROOT/agent/src/runtime/seccomp/table.rs"
}

prepare() {
  install_packages gcc libc6-dev ca-certificates iproute2 nftables busybox-static skopeo docker-registry xz-utils tar \
    procps util-linux e2fsprogs strace runc crun etcd-server
  need_rust
  bash "$ROOT/scripts/cross.sh" x86_64 aarch64
  cd "$ROOT"
  local target=x86_64-unknown-linux-musl program
  cargo build --locked --release --target $target -p coracle-tests --bin coracle-bench
  cargo build --locked --release --target $target -p coracle-store --example store_bench
  cargo build --locked --release --target $target -p coracle-agent --example container_bench
  mkdir -p "$TOOLS"
  for program in coracle-bench examples/store_bench examples/container_bench; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/release/$program" "$TOOLS/"
  done
  seccomp_names >"$TOOLS/seccomp.names"
  [ "$(wc -l <"$TOOLS/seccomp.names")" -gt 200 ] || die "the default filter's calls were not found in agent/src/runtime/seccomp/table.rs"
  make_images
  # For the tour of mem-server; where there is none, `coracle` does what it can.
  [ -x "$TOOLS/kubectl" ] || bash "$ROOT/scripts/kubectl.sh" 1.32 "$TOOLS/kubectl" || say "no kubectl: mem-server goes on with coracle"
}
