#!/bin/sh
# Fuzzes a target for some seconds, guided by coverage, on the stable toolchain: tools/fuzz.sh TARGET [SECONDS]
# The targets are lexer, sdp, digest, framing and transactions (tests/fuzz). What it finds new is kept in target/fuzz, and an
# input that breaks a property is left there too: put it into tests/data/fuzz/TARGET, where every test run gives it
# to the target again. `tools/fuzz.sh TARGET merge` takes what adds coverage over to tests/data/fuzz/TARGET.
# Needs clang (Debian: clang) for libFuzzer.
set -eu
cd "$(dirname "$0")/.."

target=${1:?tools/fuzz.sh TARGET [SECONDS]}
seconds=${2:-60}
triple=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/fuzz

# What cargo-fuzz asks of rustc, without a sanitizer, for which alone it needs nightly.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
flags="$flags -Cdebug-assertions -Coverflow-checks"

# With a target named, cargo keeps these flags from build scripts.
RUSTFLAGS="$flags" cargo build --release --target "$triple" --target-dir "$folder" \
    -p house-fuzz --features libfuzzer --bin "fuzz-$target"

found=$folder/found/$target
corpus=tests/data/fuzz/$target
mkdir -p "$found" "$corpus"
program=$folder/$triple/release/fuzz-$target
if [ "$seconds" = merge ]; then
    exec "$program" -merge=1 -max_len=2048 "$corpus" "$found"
fi
exec "$program" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$folder/broken-$target-" "$found" "$corpus" tests/data/torture
