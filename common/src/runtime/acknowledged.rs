//! The positions of this instance's partitions that Kafka has acknowledged, for the mirror.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By partition; only those that this instance owns.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(Mutex<BTreeMap<i32, i64>>);

impl Acknowledged {
    /// The position was acknowledged to this instance; `None` once another one owns, or the partition is no more.
    pub(super) fn set(&self, partition: i32, position: Option<i64>) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match position {
            Some(position) => positions.insert(partition, position),
            None => positions.remove(&partition),
        };
    }

    /// All of them.
    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        let positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.iter().map(|(partition, position)| (*partition, *position)).collect()
    }
}
