//! Reads a range of offsets once: for tools, and for whoever looks something up in a topic.

use super::fetch::{Fetched, Isolation};
use super::follow::ReadEvent;
use super::position::Position;
use super::reader::{PartitionReader, TopicReader};
use super::{Kafka, KafkaError};

/// What is read of a range, chunk by chunk.
#[derive(Debug)]
pub struct RangeReader {
    reader: PartitionReader,
    next_offset: i64,
    end: i64,
}

impl Kafka {
    /// Reads the committed records of a partition from offset `from` to before `to`. A range that reaches
    /// into a transaction that is still open ends only with the transaction: the caller bounds the time.
    pub fn read_range(&self, topic: &str, partition: i32, from: i64, to: i64) -> RangeReader {
        self.read_range_with(Isolation::Committed, (topic, partition), from, to)
    }

    /// The same with all records up to the high watermark, those of open and aborted transactions included:
    /// for who looks for records of its own, which are in no transaction.
    pub fn read_range_uncommitted(&self, topic: &str, partition: i32, from: i64, to: i64) -> RangeReader {
        self.read_range_with(Isolation::Uncommitted, (topic, partition), from, to)
    }

    fn read_range_with(
        &self,
        isolation: Isolation,
        (topic, partition): (&str, i32),
        from: i64,
        to: i64,
    ) -> RangeReader {
        let reader = TopicReader::with_isolation(self, topic, isolation);
        let reader = reader.partition(partition, Position::at(from));
        RangeReader { reader, next_offset: from, end: to }
    }
}

impl RangeReader {
    /// The next chunk; `None` at the end of the range. Records at and after the end of the range may follow
    /// in the last batch. After an error, which ends nothing, a further call goes on; a log that does not
    /// go on at the offset is an error that names where it does.
    pub async fn next(&mut self) -> Option<Result<Fetched, KafkaError>> {
        while self.next_offset < self.end {
            match self.reader.next().await {
                ReadEvent::Fetched(mut fetched) => {
                    let has_moved = fetched.next_offset > self.next_offset;
                    self.next_offset = fetched.next_offset;
                    fetched.batches.retain(|batch| batch.first_offset() < self.end);
                    if has_moved {
                        return Some(Ok(fetched));
                    }
                }
                ReadEvent::Jumped(jump) => {
                    self.next_offset = jump.to;
                    let call = format!("read {}/{}", self.reader.topic(), self.reader.partition());
                    return Some(Err(KafkaError::Jumped { call, jump }));
                }
                ReadEvent::Failing(error) => return Some(Err(error)),
            }
        }
        None
    }
}
