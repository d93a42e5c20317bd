#!/bin/bash
# mutants.sh [NAME...]: breaks the product in known ways, one at a time, and names the test that notices.
# The first line of each patch of tests/mutants says what it breaks and, after bars, the commands to try, the
# likeliest first: one of them has to fail by a test. Works on a copy; the sources are never touched.
# Fails when a mutant survives, does not apply or does not build.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"
need_rust

work=$ROOT/target/mutants
tree=$work/tree
log=$work/log
# One target directory for all, so that only what a patch touches is built again.
target=$work/target
# A suite that hangs has noticed too, but nobody wants to wait for it.
LONGEST=900

clear_tree() {
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    git worktree prune
}

# The copy, with the working directory's own changes in it.
make_tree() {
    mkdir -p "$work"
    clear_tree
    git worktree add --quiet --detach "$tree" HEAD
    git diff --binary HEAD | git -C "$tree" apply --allow-empty
    git -C "$tree" -c user.name=mutants -c user.email=mutants@localhost commit --quiet --all --allow-empty -m base
}

# What others have built need not be built again.
warm_target() {
    local from=${CARGO_TARGET_DIR:-$ROOT/target}/debug part
    if [ ! -d "$target/debug" ] && [ -d "$from/deps" ]; then
        mkdir -p "$target/debug"
        for part in deps build .fingerprint; do cp -a --reflink=auto "$from/$part" "$target/debug/"; done
    fi
    export CARGO_TARGET_DIR=$target
}

# What failed, by name.
noticed() {
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^\(seed [0-9]* fails: .*\)$/simulator: \1/p' "$log" | head -1 | cut -c1-160
}

# Runs one command; 0 when a test of it failed.
fails() {
    local code=0 by
    if ! (cd "$tree" && ${1%% -- *} --no-run) >"$log" 2>&1; then
        verdict="does not build: $(grep -m1 '^error' "$log")"
        return 2
    fi
    (cd "$tree" && timeout "$LONGEST" $1) >"$log" 2>&1 || code=$?
    by=$(noticed)
    [ $code != 124 ] || by="the time-out of '$1'"
    [ $code != 0 ] || return 1
    [ -n "$by" ] || { verdict="'$1' fails without a test that does"; return 2; }
    verdict="noticed by $by"
}

# Leaves the verdict on one patch in $verdict.
try() {
    local patch=$1 commands command code
    verdict="does not apply any more: bring it up to date"
    git -C "$tree" apply "$patch" 2>"$log" || return 1
    IFS='|' read -ra commands <<<"$(head -1 "$patch")"
    verdict="NOT NOTICED"
    for command in "${commands[@]:1}"; do
        code=0
        fails "${command# }" || code=$?
        [ $code = 1 ] || return $code
    done
    return 1
}

trap clear_tree EXIT
make_tree
warm_target
failed=()
names=("$@")
[ $# -gt 0 ] || names=(tests/mutants/*.patch)
for name in "${names[@]}"; do
    name=$(basename "$name" .patch)
    started=$SECONDS
    try "$ROOT/tests/mutants/$name.patch" || failed+=("$name")
    printf '%-32s %s (%d s)\n' "$name" "$verdict" $((SECONDS - started))
    git -C "$tree" checkout --quiet --force . && git -C "$tree" clean -qfd
done
printf '%d mutants, %d noticed, %d s\n' ${#names[@]} $((${#names[@]} - ${#failed[@]})) $SECONDS
[ ${#failed[@]} = 0 ] || die "not noticed: ${failed[*]}"
