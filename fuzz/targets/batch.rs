#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devbroker::properties::batch(bytes));
