//! Ids for idempotent producers, never given out twice: they are reserved on disk in blocks.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::durable;

const BLOCK: i64 = 1000;

/// Gives out producer ids.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: i64,
    reserved_until: i64,
}

impl ProducerIds {
    /// Goes on after the last reserved block. Blocking.
    pub fn open(file: PathBuf) -> io::Result<Self> {
        let next = match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let state = Mutex::new(State { next, reserved_until: next });
        Ok(Self { file, state })
    }

    /// A new id. Blocking, once every 1000 calls.
    pub fn next(&self) -> io::Result<i64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next == state.reserved_until {
            let until = state.next + BLOCK;
            durable::replace(&self.file, until.to_string().as_bytes())?;
            state.reserved_until = until;
        }
        let id = state.next;
        state.next += 1;
        Ok(id)
    }
}
