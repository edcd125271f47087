//! The data folder: one process at a time, and what it holds.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::durable;
use crate::error::Error;
use crate::groups::Groups;
use crate::producer_ids::ProducerIds;
use crate::topics::Topics;
use crate::transactions::Transactions;

/// What was in it.
pub(crate) struct State {
    pub(crate) cluster_id: String,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) transactions: Transactions,
    pub(crate) lock: File,
}

/// Locks the folder, makes it where it is missing, and reads it. Blocking.
pub(crate) fn open(dir: &Path, faults: bool) -> Result<State, Error> {
    let in_dir = |source| Error::Dir { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(in_dir)?;
    let lock = File::create(dir.join("lock")).map_err(in_dir)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::Locked { dir: dir.to_owned() },
        TryLockError::Error(source) => in_dir(source),
    })?;
    open_locked(dir, lock, faults).map_err(in_dir)
}

fn open_locked(dir: &Path, lock: File, faults: bool) -> io::Result<State> {
    let id_file = dir.join("cluster-id");
    let cluster_id = match fs::read_to_string(&id_file) {
        Ok(id) => id,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            durable::replace(&id_file, id.as_bytes())?;
            id
        }
        Err(error) => return Err(error),
    };
    let start = next_start(&dir.join("starts"))?;
    Ok(State {
        cluster_id,
        topics: Topics::open(&dir.join("topics"), start, faults)?,
        groups: Groups::open(&dir.join("committed-offsets"))?,
        producer_ids: ProducerIds::open(dir.join("next-producer-id"))?,
        transactions: Transactions::open(&dir.join("transactions"))?,
        lock,
    })
}

/// Counts this start of the broker: 1 for the first one.
fn next_start(file: &Path) -> io::Result<i32> {
    let before = match fs::read_to_string(file) {
        // One that cannot be read counts from 1 again; the epochs in the logs rise all the same.
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let start: i32 = i32::saturating_add(before, 1);
    durable::replace(file, start.to_string().as_bytes())?;
    Ok(start)
}
