#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| consumers::audit::properties::line(bytes));
