//! The offsets topic as it was written, read while it is: compaction takes claims and commits before a round is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::requests::{Micros, now};
use harness::{DLQ, EVENTS, Error, OFFSETS, Result, read_topic};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::evidence::OffsetsEntry;

/// Between two looks: a record is there for longer before it is compacted.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A record of the offsets topic that is about a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// That of events, or of dead letters.
    pub topic: &'static str,
    /// Of that topic.
    pub partition: usize,
    /// What it says.
    pub entry: OffsetsEntry,
    /// A last commit: whoever has a turn may claim.
    pub released: bool,
    /// Whom a last commit names to own next.
    pub to: Option<String>,
}

/// What was read so far.
#[derive(Default)]
struct Known {
    records: BTreeMap<i64, Record>,
    /// When the topic was read to its end, in order.
    times: Vec<Micros>,
}

/// Reads as it goes, in a thread of its own, which ends with the value.
pub struct Follower {
    bootstrap: String,
    known: Arc<Mutex<Known>>,
    /// Both until it ends.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Follower {
    /// Begins to follow.
    pub fn start(bootstrap: &str) -> Result<Self> {
        let known = Arc::<Mutex<Known>>::default();
        let (all, broker) = (Arc::clone(&known), bootstrap.to_owned());
        let failed = |error| Error::Failed(format!("cannot follow the offsets topic: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let follow = async {
                loop {
                    // While the broker is unreachable nothing is written either.
                    drop(read_into(&broker, &all).await);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = follow => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { bootstrap: bootstrap.to_owned(), known, running: Some((stop, thread)) })
    }

    /// All that was written so far, in its order.
    pub async fn read(&self) -> Result<Vec<Record>> {
        read_into(&self.bootstrap, &self.known).await?;
        Ok(self.known())
    }

    /// All that was read so far, in its order.
    pub fn known(&self) -> Vec<Record> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.records.values().cloned().collect()
    }

    /// When the broker served the topic for the first time after this.
    pub fn served_after(&self, at: Micros) -> Option<Micros> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.times.iter().copied().find(|time| *time > at)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}

async fn read_into(bootstrap: &str, known: &Mutex<Known>) -> Result<()> {
    let read = read_topic(bootstrap, OFFSETS).await?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.times.push(now());
    for one in read {
        let (key, value) = (one.record.key.as_deref(), one.record.value.as_deref());
        if let Some(record) = parse(one.offset, key, value) {
            known.records.insert(one.offset, record);
        }
    }
    Ok(())
}

/// `None` for a tombstone, for members, and for what is of another topic or makes no sense.
fn parse(at: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Record> {
    let mut parts: Vec<&str> = std::str::from_utf8(key?).ok()?.split('/').collect();
    let topic = [EVENTS, DLQ].into_iter().find(|topic| parts.get(1) == Some(topic))?;
    let place = parts.get_mut(2)?;
    let partition = place.parse().ok()?;
    // The entry itself knows of one partition.
    *place = "0";
    let entry = OffsetsEntry::read(at, Some(parts.join("/").as_bytes()), value, topic)?;
    let json: Value = serde_json::from_slice(value?).ok()?;
    let released = json.get("released").is_some_and(|released| *released == true);
    let to = json.get("to").and_then(Value::as_str).map(str::to_owned);
    Some(Record { topic, partition, entry, released, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_its_partition() {
        let commit =
            br#"{"v":1,"offset":7,"instance_id":"i","committed_at":"1970-01-01T00:00:01Z","released":true,"to":"j"}"#;
        let record = parse(9, Some(b"g/task-events/4/commit/3"), Some(commit)).unwrap();
        assert_eq!((record.topic, record.partition), (EVENTS, 4));
        assert_eq!((record.released, record.to.as_deref(), record.entry.at), (true, Some("j"), 9));
        let record = parse(9, Some(b"g/task-events-dlq/0/commit/3"), Some(commit)).unwrap();
        assert_eq!((record.topic, record.partition), (DLQ, 0));
        assert!(parse(9, Some(b"g/task-events/4/commit/3"), None).is_none());
        assert!(parse(9, Some(b"g/member/i"), Some(b"{}")).is_none());
    }
}
