//! The thread that works in the background, and how it is stopped.

use crate::error_code::Code;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::lock;

/// The thread, and how it is stopped.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) thread: Mutex<Running>,
    must_stop: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) handle: Option<JoinHandle<()>>,
    pub(super) is_running: bool,
}

impl Worker {
    /// Ends the work at the next step, and waits for that.
    pub(super) fn stop(&self) {
        self.must_stop.store(true, Ordering::Release);
        let handle = lock(&self.thread).handle.take();
        if let Some(handle) = handle
            && handle.join().is_err()
        {
            ::log::error!("the thread that merges dedup state has panicked {}", Code::Panic);
        }
        lock(&self.thread).is_running = false;
        self.must_stop.store(false, Ordering::Release);
    }

    pub(super) fn must_stop(&self) -> bool {
        self.must_stop.load(Ordering::Acquire)
    }
}
