//! libFuzzer's driver of [`house_fuzz::framing`]; `tools/fuzz.sh` runs it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| house_fuzz::framing(bytes));
