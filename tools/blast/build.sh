#!/usr/bin/env bash
# Builds blast.bpf.o from blast.bpf.c. Debian: clang llvm libbpf-dev. The first argument is where to, in place of
# the committed object.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-blast.bpf.o}
clang -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter \
    -ffile-compilation-dir=. -I"/usr/include/$(uname -m)-linux-gnu" -c blast.bpf.c -o "$out"
# Debug information goes, the kernel's own type information (BTF) stays.
llvm-strip --strip-debug "$out"
