#!/usr/bin/env bash
# Proves that the committed pass.bpf.o has the instructions that pass.bpf.c gives.
set -euo pipefail
cd "$(dirname "$0")"
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
clang -O2 -g0 -target bpf -c pass.bpf.c -o "$new/pass.bpf.o"
essence() {
    llvm-objdump --no-show-raw-insn --no-leading-addr -d -r "$1" | tail -n +3
    llvm-readelf -x license "$1" | tail -n +2
}
essence pass.bpf.o > "$new/committed"
essence "$new/pass.bpf.o" > "$new/built"
diff -u "$new/committed" "$new/built" || {
    echo "pass.bpf.o is not built from pass.bpf.c: run the clang of its first lines and commit what it makes" >&2
    exit 1
}
echo "pass.bpf.o is built from pass.bpf.c"
