#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| task_events::properties::offsets_record(bytes));
