//! Reads ahead of the handler: the next chunks wait in a bounded queue while one is handled.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Backoff;
use crate::kafka::{Chunk as Fetched, KafkaError, OffsetAt, Partition};
use crate::log_once::LogOnce;

/// Bytes of a fetch, at most about; some 1,500 events.
const FETCH_BYTES: i32 = 1024 * 1024;
/// How long a fetch waits at the broker where there is nothing new.
const POLL: Duration = Duration::from_millis(500);
/// Chunks that wait for the handler.
const AHEAD: usize = 2;

/// What the reader brings.
#[derive(Debug)]
pub(super) enum ReadAhead {
    /// Records, or an end of log without any.
    Chunk(Fetched),
    /// The broker has records that cannot be decoded, at this offset. The reader tries again.
    Undecodable { offset: i64, error: KafkaError },
}

/// Starts to read from `start`. Ends when the receiver is dropped.
pub(super) fn spawn(partition: Partition, start: i64) -> mpsc::Receiver<ReadAhead> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = read(partition, start, sender) => {}
        }
    });
    receiver
}

async fn read(partition: Partition, start: i64, chunks: mpsc::Sender<ReadAhead>) {
    let mut position = start;
    let mut backoff = Backoff::for_kafka();
    let mut said = LogOnce::default();
    loop {
        let item = match partition.fetch(position, FETCH_BYTES, POLL).await {
            Ok(fetched) => {
                position = fetched.next_offset;
                backoff = Backoff::for_kafka();
                ReadAhead::Chunk(fetched)
            }
            Err(KafkaError::OffsetOutOfRange { .. }) => {
                match restart(&partition, position).await {
                    Ok(earliest) => position = earliest,
                    Err(error) => {
                        said.warn(&format!("cannot find the start of the log, will try again: {error}"));
                        sleep(backoff.next_delay()).await;
                    }
                }
                continue;
            }
            Err(error @ KafkaError::Undecodable { .. }) => {
                sleep(backoff.next_delay()).await;
                ReadAhead::Undecodable { offset: position, error }
            }
            Err(error) => {
                said.warn(&format!("cannot read, will try again: {error}"));
                sleep(backoff.next_delay()).await;
                continue;
            }
        };
        if chunks.send(item).await.is_err() {
            return;
        }
    }
}

/// Where to go on after a position that the log does not have: its start.
async fn restart(partition: &Partition, position: i64) -> Result<i64, KafkaError> {
    let earliest = partition.offset(OffsetAt::Earliest).await?;
    let name = format!("{}/{}", partition.topic(), partition.partition());
    if position < earliest {
        log::error!(
            "LOST by retention: {name} offsets {position} to {} ({} events) were deleted before this group read them; going on at {earliest}",
            earliest - 1,
            earliest - position
        );
    } else {
        log::error!(
            "{name}: position {position} is beyond the end of the log, so the topic was made anew; going on at its start, {earliest}"
        );
    }
    Ok(earliest)
}
