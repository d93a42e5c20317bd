#!/bin/bash
# mutants.sh [NAME...]: breaks the product in known ways, one at a time, and names the test that notices.
# Each patch of tests/mutants says in its first line what it breaks and which command has to fail.
# Fails when a mutant survives, does not apply or does not build.
. "$(dirname "$0")/lib/common.sh"
cd "$ROOT"

tree=$ROOT/target/mutants/tree
# One target directory for all, so that only what a patch touches is built again.
export CARGO_TARGET_DIR=${MUTANTS_TARGET:-$ROOT/target/mutants/target}
log=$ROOT/target/mutants/log
mkdir -p "$ROOT/target/mutants"

clear_tree() {
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    git worktree prune
}
trap clear_tree EXIT
clear_tree
git worktree add --quiet --detach "$tree" HEAD

# What failed, by name.
noticed() {
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^\(seed [0-9]* fails: .*\)$/simulator: \1/p' "$log" | head -1 | cut -c1-160
}

# Prints the verdict on one patch.
try() {
    local patch=$1 name command
    name=$(basename "$patch" .patch)
    command=$(head -1 "$patch" | sed 's/.*| *//')
    if ! git -C "$tree" apply "$patch" 2>"$log"; then
        echo "$name: does not apply any more: bring it up to date"
        return 1
    fi
    if ! (cd "$tree" && ${command%% -- *} --no-run) >"$log" 2>&1; then
        echo "$name: does not build: $(grep -m1 '^error' "$log")"
        return 1
    fi
    if (cd "$tree" && timeout 900 $command) >"$log" 2>&1; then
        echo "$name: NOT NOTICED by '$command'"
        return 1
    fi
    echo "$name: noticed by $(noticed)"
}

failed=0
patches=("$@")
[ $# -gt 0 ] || patches=(tests/mutants/*.patch)
for patch in "${patches[@]}"; do
    patch=$ROOT/tests/mutants/$(basename "$patch" .patch).patch
    try "$patch" || failed=1
    git -C "$tree" checkout --quiet --force . && git -C "$tree" clean -qfd
done
exit $failed
