//! The markers by which a broker ends transactions.

use bytes::{Buf, Bytes};

use super::header::BatchHeader;

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlMarker {
    /// The format of the marker.
    pub version: i16,
    /// What it marks.
    pub marker: Marker,
    /// The producer whose transaction ends, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
}

/// The kind of a control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
    /// Of another part of Kafka, as its quorum controller.
    Other(i16),
}

impl ControlMarker {
    /// The marker is in the key of the only record of its batch.
    pub(super) fn read(header: &BatchHeader, mut key: Bytes) -> Option<Self> {
        let version = key.try_get_i16().ok()?;
        let marker = match key.try_get_i16().ok()? {
            0 => Marker::Abort,
            1 => Marker::Commit,
            other => Marker::Other(other),
        };
        let (producer_id, producer_epoch) = (header.producer_id, header.producer_epoch);
        Some(Self { version, marker, producer_id, producer_epoch })
    }
}
