#![no_main]

libfuzzer_sys::fuzz_target!(init: eventpulse_fuzzing::let_interpreters_panic(), |data: &[u8]| eventpulse_fuzzing::message(data));
