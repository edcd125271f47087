//! The offsets topic as it was written, read while it is: compaction takes claims and commits before a round is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::{EVENTS, Error, OFFSETS, Result, read_topic};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::evidence::OffsetsEntry;

/// Between two looks: a record is there for longer before it is compacted.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A record of the offsets topic that is about a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// Of the topic of events.
    pub partition: usize,
    /// What it says.
    pub entry: OffsetsEntry,
    /// A last commit: whoever has a turn may claim.
    pub released: bool,
}

type Records = BTreeMap<i64, Record>;

/// Reads as it goes, in a thread of its own, which ends with the value.
pub struct Follower {
    bootstrap: String,
    records: Arc<Mutex<Records>>,
    /// Both until it ends.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Follower {
    /// Begins to follow.
    pub fn start(bootstrap: &str) -> Result<Self> {
        let records = Arc::<Mutex<Records>>::default();
        let (all, broker) = (Arc::clone(&records), bootstrap.to_owned());
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
        Ok(Self { bootstrap: bootstrap.to_owned(), records, running: Some((stop, thread)) })
    }

    /// All that was written so far, in its order.
    pub async fn read(&self) -> Result<Vec<Record>> {
        read_into(&self.bootstrap, &self.records).await?;
        Ok(self.known())
    }

    /// All that was read so far, in its order.
    pub fn known(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
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

async fn read_into(bootstrap: &str, records: &Mutex<Records>) -> Result<()> {
    let read = read_topic(bootstrap, OFFSETS).await?;
    let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
    for one in read {
        let (key, value) = (one.record.key.as_deref(), one.record.value.as_deref());
        if let Some(record) = parse(one.offset, key, value) {
            records.insert(one.offset, record);
        }
    }
    Ok(())
}

/// `None` for a tombstone, for members, and for what is of another topic or makes no sense.
fn parse(at: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Record> {
    let mut parts: Vec<&str> = std::str::from_utf8(key?).ok()?.split('/').collect();
    let place = parts.get_mut(2)?;
    let partition = place.parse().ok()?;
    // The entry itself knows of one partition.
    *place = "0";
    let entry = OffsetsEntry::read(at, Some(parts.join("/").as_bytes()), value, EVENTS)?;
    let json: Value = serde_json::from_slice(value?).ok()?;
    let released = json.get("released").is_some_and(|released| *released == true);
    Some(Record { partition, entry, released })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_its_partition() {
        let commit =
            br#"{"v":1,"offset":7,"instance_id":"i","committed_at":"1970-01-01T00:00:01Z","released":true}"#;
        let record = parse(9, Some(b"g/task-events/4/commit/3"), Some(commit)).unwrap();
        assert_eq!((record.partition, record.released, record.entry.at), (4, true, 9));
        assert!(parse(9, Some(b"g/task-events/4/commit/3"), None).is_none());
        assert!(parse(9, Some(b"g/member/i"), Some(b"{}")).is_none());
    }
}
