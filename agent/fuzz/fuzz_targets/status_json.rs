#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiloclaw_agent_fuzz::status_json(data));
