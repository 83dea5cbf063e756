#!/usr/bin/env bash
# Proves that the committed blast.bpf.o has the instructions, relocations and types that blast.bpf.c gives.
set -euo pipefail
cd "$(dirname "$0")"
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
./build.sh "$new/blast.bpf.o"
essence() {
    llvm-objdump --no-show-raw-insn --no-leading-addr -d -r "$1" | tail -n +3
    llvm-readelf -s "$1" | awk '$4 == "OBJECT" || $4 == "FUNC" { print $3, $4, $8 }' | sort
    llvm-readelf -x license "$1" | tail -n +2
    bpftool btf dump file "$1" format raw | sed -E 's/\[?[0-9]+\]? //; s/type_id=[0-9]+//g' | sort
}
essence blast.bpf.o > "$new/committed"
essence "$new/blast.bpf.o" > "$new/built"
diff -u "$new/committed" "$new/built" || {
    echo "blast.bpf.o is not built from blast.bpf.c: run tools/blast/build.sh and commit what it makes" >&2
    exit 1
}
echo "blast.bpf.o is built from blast.bpf.c"
