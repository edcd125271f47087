#![no_main]

use std::cell::RefCell;

use devbroker::properties::Frames;
use tempfile::TempDir;

/// Frames until the broker is recreated, with nothing of what they left in it.
const FRAMES: u32 = 2_000;

thread_local! {
    static BROKER: RefCell<Option<(Frames, TempDir, u32)>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| BROKER.with_borrow_mut(|broker| {
    if broker.as_ref().is_some_and(|(_, _, frames)| *frames == FRAMES)
        && let Some((frames, _folder, _)) = broker.take()
    {
        frames.stop();
    }
    let (frames, _, taken) = broker.get_or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        (Frames::start(folder.path()), folder, 0)
    });
    *taken += 1;
    frames.take(bytes);
}));
