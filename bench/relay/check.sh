#!/usr/bin/env bash
# Proves that the committed objects have the instructions that their sources give.
set -euo pipefail
cd "$(dirname "$0")"
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
essence() {
    llvm-objdump --no-show-raw-insn --no-leading-addr -d -r "$1" | tail -n +3
    llvm-readelf -x license "$1" | tail -n +2
}
for name in pass drop; do
    clang -O2 -g0 -target bpf -c $name.bpf.c -o "$new/$name.bpf.o"
    essence $name.bpf.o > "$new/committed"
    essence "$new/$name.bpf.o" > "$new/built"
    diff -u "$new/committed" "$new/built" || {
        echo "$name.bpf.o is not built from $name.bpf.c: run the clang of its first lines and commit what it makes" >&2
        exit 1
    }
    echo "$name.bpf.o is built from $name.bpf.c"
done
