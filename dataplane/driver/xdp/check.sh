#!/usr/bin/env bash
# Proves that the committed relay.bpf.o is built from relay.bpf.c: the same bytes, or else, where only the
# tools' own remarks differ, the same instructions, relocations, maps and types.
set -euo pipefail
cd "$(dirname "$0")"
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
./build.sh "$new/relay.bpf.o"
if cmp -s relay.bpf.o "$new/relay.bpf.o"; then
    echo "relay.bpf.o is built from relay.bpf.c: same bytes"
    exit
fi

# What the kernel gets of an object.
essence() {
    llvm-objdump --no-show-raw-insn --no-leading-addr -d -r "$1" | tail -n +3
    llvm-readelf -s "$1" | awk '$4 == "OBJECT" || $4 == "FUNC" { print $3, $4, $8 }' | sort
    llvm-readelf -x license "$1" | tail -n +2
    # Types, but not the numbers that they happen to have.
    bpftool btf dump file "$1" format c
    bpftool btf dump file "$1" format raw | sed -E 's/\[?[0-9]+\]? //; s/type_id=[0-9]+//g' | sort
}
essence relay.bpf.o > "$new/committed"
essence "$new/relay.bpf.o" > "$new/built"
if ! diff -u "$new/committed" "$new/built"; then
    echo "relay.bpf.o is not built from relay.bpf.c by $(cat relay.bpf.clang);" \
        "run dataplane/driver/xdp/build.sh and commit what it makes" >&2
    exit 1
fi
echo "relay.bpf.o is built from relay.bpf.c: same instructions, maps and types"
