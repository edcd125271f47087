//! Control batches: the marker that ends a transaction in a partition.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use task_events::kafka::records::{
    Batch, BatchBuilder, BatchHeader, Codec, EncodeError, Marker, ProducerState,
};

/// How a transaction ended; the numbers are those in the marker's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Abort = 0,
    Commit = 1,
}

/// What a control batch says; `None` for a data batch, and for a kind of marker that is not known.
pub(crate) fn outcome(header: &BatchHeader, bytes: &[u8]) -> Option<Outcome> {
    if !header.is_control() {
        return None;
    }
    match Batch::of(Bytes::copy_from_slice(bytes))?.marker()?.marker {
        Marker::Abort => Some(Outcome::Abort),
        Marker::Commit => Some(Outcome::Commit),
        Marker::Other(_) => None,
    }
}

/// A marker, with its header. The log gives it its offset.
pub(crate) fn build(
    producer_id: i64,
    producer_epoch: i16,
    outcome: Outcome,
    now_ms: i64,
) -> Result<(Vec<u8>, BatchHeader), EncodeError> {
    let marker = match outcome {
        Outcome::Abort => Marker::Abort,
        Outcome::Commit => Marker::Commit,
    };
    let bytes = BatchBuilder::new(0, Codec::None)
        .producer(ProducerState { id: producer_id, epoch: producer_epoch, sequence: -1 })
        .marker(marker, now_ms, 0)
        .build()?;
    let header = BatchHeader::parse(&bytes).ok_or(EncodeError::TooLarge)?;
    Ok((bytes, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_batch_that_says_its_outcome() {
        for expected in [Outcome::Abort, Outcome::Commit] {
            let (bytes, header) = build(7, 3, expected, 1_000).unwrap();
            assert_eq!((header.producer_id, header.producer_epoch), (7, 3));
            assert_eq!(outcome(&header, &bytes), Some(expected));
        }
    }
}
