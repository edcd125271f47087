//! Compares lines that were found in the log with Kafka: this service writes what is there and nothing else, so a line that
//! Kafka contradicts is somebody else's.
//!
//! # Invariants
//!
//! 1. *The log never waits for it*: this is a task beside it, and takes bounded memory, [`CHUNK_BYTES`] of lines at a time.
//! 2. *A line is confirmed if it is, byte for byte, what this service makes of the committed record at its offset*, but for
//!    its time (`audited_at`), which Kafka does not have.
//! 3. *Kafka contradicts* a line of another topic, a line at an offset that has no committed record, and one that differs from
//!    that record. What is below the log's start cannot be told, and is reported.
//! 4. While Kafka cannot be asked, it is asked again.

use std::io::{self, Read};
use std::time::Duration;

use task_events::kafka::{Batch, ConsumerRecord, Kafka, KafkaError, OffsetAt};
use task_events::schemas::EventReader;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::file::Lines;
use super::line;
use super::tree::{Commits, Stretch};

/// Bytes of lines that are compared at once.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Offsets between two lines that are read over, rather than asked for anew.
const MAX_GAP: i64 = 1_000;
/// Time for an answer of Kafka's.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Time between two tries.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Which records the lines of a log are of.
#[derive(Debug, Clone)]
pub struct Records {
    /// Where they are.
    pub kafka: Kafka,
    /// The topic that this service reads.
    pub topic: String,
}

/// A line, where it starts, and which record it says it is of.
struct Found {
    at: u64,
    bytes: Vec<u8>,
    partition: i32,
    offset: i64,
}

/// A line that this service did not write, and why that is known.
struct Foreign {
    at: u64,
    why: String,
}

/// Why lines are not confirmed.
enum Failure {
    Foreign(Foreign),
    /// Kafka, or the registry, is to be asked again.
    Later(String),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self::Later(error.to_string())
    }
}

fn foreign(at: u64, why: impl Into<String>) -> Failure {
    Failure::Foreign(Foreign { at, why: why.into() })
}

/// Compares what is found, as it is found.
pub(super) async fn run(records: Records, reader: EventReader, commits: Commits) {
    loop {
        let Some(stretch) = commits.next_unconfirmed() else {
            commits.found().await;
            continue;
        };
        match compare(&records, &reader, &commits, &stretch).await {
            Ok((lines, untold)) => commits.confirm(&stretch, lines, untold),
            Err(Foreign { at, why }) => commits.refute(&stretch, at, &why),
        }
    }
}

/// How many lines there are, and of how many cannot be told whose they are.
async fn compare(
    records: &Records,
    reader: &EventReader,
    commits: &Commits,
    stretch: &Stretch,
) -> Result<(u64, u64), Foreign> {
    let unreadable = |why: String| Foreign { at: stretch.from, why: format!("it cannot be read: {why}") };
    let (mut lines, mut count, mut untold) = (None, 0, 0);
    loop {
        let (stretch, before, topic) = (stretch.clone(), lines.take(), records.topic.clone());
        let read = spawn_blocking(move || {
            let mut lines = before.map_or_else(|| stretch.lines(), Ok)?;
            let chunk = next_chunk(&mut lines, &stretch, &topic)?;
            Ok::<_, io::Error>((lines, chunk))
        });
        let read = read.await.map_err(|error| unreadable(error.to_string()))?;
        let (rest, chunk) = read.map_err(|error| unreadable(error.to_string()))?;
        let chunk = chunk?;
        if chunk.is_empty() {
            return Ok((count, untold));
        }
        lines = Some(rest);
        count += chunk.len() as u64;
        for run in
            chunk.chunk_by(|one, next| one.partition == next.partition && next.offset - one.offset <= MAX_GAP)
        {
            untold += loop {
                match compare_run(records, reader, run).await {
                    Ok(untold) => break untold,
                    Err(Failure::Foreign(foreign)) => return Err(foreign),
                    Err(Failure::Later(why)) => commits.cannot_compare(&why),
                }
                sleep(TRY_AGAIN).await;
            };
        }
    }
}

/// The next lines of a stretch, by partition and offset; none at its end.
fn next_chunk<R: Read>(
    lines: &mut Lines<R>,
    stretch: &Stretch,
    topic: &str,
) -> io::Result<Result<Vec<Found>, Foreign>> {
    let (mut chunk, mut bytes_of_chunk) = (Vec::new(), 0);
    while bytes_of_chunk < CHUNK_BYTES
        && let Some((at, bytes)) = lines.next()?
    {
        if at >= stretch.to {
            break;
        }
        if at < stretch.from {
            continue;
        }
        let Some(line) = line::parse(bytes) else {
            return Ok(Err(Foreign { at, why: line::what_is_wrong(bytes) }));
        };
        if line.kafka.topic != topic {
            let why = format!("it names topic {}, and this service reads {topic}", line.kafka.topic);
            return Ok(Err(Foreign { at, why }));
        }
        bytes_of_chunk += bytes.len();
        let (partition, offset) = (line.kafka.partition, line.kafka.offset);
        chunk.push(Found { at, bytes: bytes.to_vec(), partition, offset });
    }
    chunk.sort_by_key(|found| (found.partition, found.offset));
    Ok(Ok(chunk))
}

/// Compares lines of a partition whose offsets are near each other, and in order. Of how many cannot be told whose they are.
async fn compare_run(records: &Records, reader: &EventReader, run: &[Found]) -> Result<u64, Failure> {
    let Some(first) = run.first() else { return Ok(0) };
    let (kafka, topic, partition) = (&records.kafka, records.topic.as_str(), first.partition);
    let end = async {
        let earliest = kafka.list_offset(topic, partition, OffsetAt::Earliest).await?;
        Ok::<_, KafkaError>((earliest, kafka.list_offset(topic, partition, OffsetAt::LastStable).await?))
    };
    let (earliest, end) = match within(end).await? {
        Err(error @ KafkaError::UnknownPartition { .. }) => {
            return Err(foreign(first.at, error.to_string()));
        }
        ends => ends?,
    };
    let (untold, mut rest) = run.split_at(run.partition_point(|found| found.offset < earliest));
    let none = |found: &Found| {
        let why = format!("Kafka has no record at offset {} of {topic}/{partition}", found.offset);
        foreign(found.at, why)
    };
    if let Some(beyond) = rest.iter().find(|found| found.offset >= end) {
        return Err(none(beyond));
    }
    let (Some(start), Some(last)) = (rest.first(), rest.last()) else { return Ok(untold.len() as u64) };
    let mut range = kafka.read_range(topic, partition, start.offset, last.offset.saturating_add(1));
    while let Some(fetched) = within(range.next()).await? {
        let fetched = fetched?;
        let records: Result<Vec<_>, _> = fetched.batches.iter().flat_map(Batch::records).collect();
        for record in records.map_err(|error| Failure::Later(error.to_string()))? {
            while let Some((found, others)) =
                rest.split_first().filter(|(found, _)| found.offset <= record.offset)
            {
                if found.offset < record.offset {
                    return Err(none(found));
                }
                compare_line(reader, found, &record).await?;
                rest = others;
            }
        }
    }
    rest.first().map_or(Ok(untold.len() as u64), |found| Err(none(found)))
}

/// Whether the line is what this service makes of the record.
async fn compare_line(reader: &EventReader, found: &Found, record: &ConsumerRecord) -> Result<(), Failure> {
    let differs = |what: &str| foreign(found.at, format!("Kafka's record at offset {} {what}", found.offset));
    let value = record.value.as_deref();
    reader.prepare(value).await.map_err(|error| Failure::Later(error.to_string()))?;
    let event = reader.read(value).map_err(|_| differs("is no event"))?;
    // It was parsed before.
    let Some(line) = line::parse(&found.bytes) else { return Err(differs("cannot be compared")) };
    let own = line::render(&event, &line.audited_at, line.kafka.clone());
    match own.is_ok_and(|own| own == found.bytes) {
        true => Ok(()),
        false => Err(differs("is another event")),
    }
}

/// An answer of Kafka's, in time.
async fn within<T>(answer: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(TIMEOUT, answer).await.map_err(|_| Failure::Later("Kafka does not answer".to_owned()))
}
