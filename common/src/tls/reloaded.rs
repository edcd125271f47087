//! A configuration that is made of files, and made again when they have changed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::Stamp;
use crate::log_once::LogOnce;

/// What the files say, as last read with success.
pub(super) struct Reloaded<C> {
    current: Mutex<Arc<C>>,
    watch: Mutex<Watch>,
}

/// What the files were when they were last read.
struct Watch {
    stamps: Vec<Stamp>,
    log: LogOnce,
}

impl<C> Reloaded<C> {
    /// Reads the files. The error names what is wrong, in one line.
    pub(super) fn load(
        stamps: impl FnOnce() -> Vec<Stamp>,
        read: impl FnOnce() -> Result<C, String>,
    ) -> Result<Self, String> {
        // First, so that a change while they are read is noticed.
        let stamps = stamps();
        let current = Mutex::new(Arc::new(read()?));
        Ok(Self { current, watch: Mutex::new(Watch { stamps, log: LogOnce::new(module_path!()) }) })
    }

    /// As it was last read.
    pub(super) fn current(&self) -> Arc<C> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The configuration, of files that were read again if they have changed. Where another call is about to read
    /// them, perhaps from a disk that hangs, it is the present one.
    pub(super) fn refreshed(
        &self,
        files: &dyn fmt::Display,
        stamps: impl FnOnce() -> Vec<Stamp>,
        read: impl FnOnce() -> Result<C, String>,
    ) -> Arc<C> {
        let Ok(mut watch) = self.watch.try_lock() else { return self.current() };
        let stamps = stamps();
        if stamps == watch.stamps {
            return self.current();
        }
        match read() {
            Ok(config) => {
                watch.log.over("the certificates can be used again");
                log::info!("new certificates are in use: {files}");
                watch.stamps = stamps;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(why) => watch.log.warn(&format!(
                "certificates that were replaced cannot be used: {why}; the former ones stay in use until they can"
            )),
        }
        self.current()
    }
}
