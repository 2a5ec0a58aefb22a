#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aesql_fuzz::evaluate(data));
