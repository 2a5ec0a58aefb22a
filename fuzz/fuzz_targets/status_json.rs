#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiloclaw_fuzz::agent::status_json(data));
