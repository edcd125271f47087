//! The outbox as the relay reads it: in order, a bounded part at a time, and only what it asks for.

use redb::ReadableDatabase;
use uuid::Uuid;

use super::schema::{OUTBOX, PUBLISHED_TOPIC, PublishedTopic, read_outbox};
use super::{OutboxEntry, Store, StoreError, Unreadable};

/// Part of the outbox.
#[derive(Debug, Default)]
pub struct OutboxScan {
    /// What was asked for, in order.
    pub entries: Vec<OutboxEntry>,
    /// What cannot be read, and stays.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on: all entries below were looked at.
    pub next: u64,
    /// There were no more entries.
    pub is_end: bool,
}

impl Store {
    /// Looks at the entries from sequence number `from` on, at most `limit`, and returns those that are
    /// wanted, by sequence number and task. An entry that cannot be read does not hide those after it.
    pub async fn outbox_scan<F>(&self, from: u64, limit: usize, wanted: F) -> Result<OutboxScan, StoreError>
    where
        F: FnMut(u64, Uuid) -> bool + Clone + Send + Sync + 'static,
    {
        let scan = self.read(move |database| {
            let mut wanted = wanted.clone();
            let read = database.begin_read()?;
            let table = read.open_table(OUTBOX)?;
            let mut scan = OutboxScan { next: from, ..OutboxScan::default() };
            let mut looked_at = 0;
            for entry in table.range(from..)?.take(limit) {
                let (seq, value) = entry?;
                let seq = seq.value();
                looked_at += 1;
                scan.next = seq + 1;
                match read_if_wanted(seq, value.value(), &mut wanted) {
                    Ok(entry) => scan.entries.extend(entry),
                    Err(error) => scan.unreadable.push(error),
                }
            }
            scan.is_end = looked_at < limit;
            Ok(scan)
        });
        let scan = scan.await?;
        for unreadable in &scan.unreadable {
            self.shared.report(unreadable);
        }
        Ok(scan)
    }

    /// The topic that the positions are about.
    pub async fn published_topic(&self) -> Result<Option<PublishedTopic>, StoreError> {
        self.read(|database| {
            let read = database.begin_read()?;
            let topic = read.open_table(PUBLISHED_TOPIC)?.get(())?;
            Ok(topic.map(|topic| topic.value().into()))
        })
        .await
    }
}

fn read_if_wanted(
    seq: u64,
    value: &[u8],
    wanted: &mut impl FnMut(u64, Uuid) -> bool,
) -> Result<Option<OutboxEntry>, Unreadable> {
    // Nearly all are wanted, so all of it is decoded, once.
    let entry = read_outbox(seq, value)?;
    Ok(wanted(seq, entry.event.data.task_id).then_some(entry))
}
