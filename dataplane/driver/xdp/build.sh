#!/usr/bin/env bash
# Builds relay.bpf.o from relay.bpf.c, the same bytes wherever the clang is the same.
# Debian: clang llvm libbpf-dev. The first argument is where to, in place of the committed object.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-relay.bpf.o}
headers=/usr/include/$(uname -m)-linux-gnu
clang -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter \
    -ffile-compilation-dir=. -I"$headers" -c relay.bpf.c -o "$out"
# Debug information goes, the kernel's own type information (BTF) stays.
llvm-strip --strip-debug "$out"
# Which clang the committed object is from.
[ -n "${1:-}" ] || clang --version | head -n 1 > relay.bpf.clang
