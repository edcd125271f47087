//! The outbox as the relay reads it: in order, a bounded part at a time, and only what it asks for.
//!
//! The outbox is the log: an event leaves it when its partition's mark passes it. The last events are in memory; those
//! before them are read from the log, after a start and where the relay has fallen behind.

mod ledger;
mod marks;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

pub(super) use ledger::{Ledger, Source, Stored};
pub(crate) use marks::partition_of;

use super::Embedded;
use super::delivery::{OutboxEntry, PublishedTopic};
use super::failure::{StoreError, Unreadable};
use super::operation::{EventBytes, Operation};
use super::schema::read_event;
use super::shared::Shared;
use super::wal::Place;
use super::wal::files::SegmentError;

/// Time for the disk to tell the age of the oldest event: well within that of a probe or a scrape.
const AGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time to look for the events of one id.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most events that are shown of one id: a task has some ten.
const MAX_ABOUT: usize = 100;

/// Part of the outbox.
#[derive(Debug, Default)]
pub struct OutboxScan {
    /// What was asked for, in order.
    pub entries: Vec<Arc<OutboxEntry>>,
    /// What cannot be read, and stays.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on: all entries below were looked at.
    pub next: u64,
    /// There were no more entries.
    pub is_end: bool,
}

impl Embedded {
    /// Looks at the entries from sequence number `from` on, at most `limit`, and returns those that wait and are
    /// wanted, by sequence number and task. An entry that cannot be read does not hide those after it.
    pub async fn outbox_scan<F>(&self, from: u64, limit: usize, wanted: F) -> Result<OutboxScan, StoreError>
    where
        F: FnMut(u64, Uuid) -> bool + Send + 'static,
    {
        let source = self.shared.ledger().source(from, limit);
        let mut scan = match source {
            Source::Nowhere => OutboxScan { next: from, is_end: true, ..OutboxScan::default() },
            Source::Memory(entries) => self.scan_memory(from, limit, entries, wanted),
            Source::Log { place, first, last } => {
                let shared = Arc::clone(&self.shared);
                self.blocking(move || read_log(&shared, place, first, last, limit, wanted)).await??
            }
        };
        if from <= 1 {
            scan.unreadable.extend_from_slice(self.shared.ledger().unreadable());
        }
        for unreadable in &scan.unreadable {
            self.shared.report(unreadable);
        }
        Ok(scan)
    }

    fn scan_memory(
        &self,
        from: u64,
        limit: usize,
        entries: Vec<Arc<OutboxEntry>>,
        mut wanted: impl FnMut(u64, Uuid) -> bool,
    ) -> OutboxScan {
        let next = entries.last().map_or(from, |last| last.seq + 1);
        let is_end = entries.len() < limit;
        let ledger = self.shared.ledger();
        let wanted = |entry: &Arc<OutboxEntry>| {
            let task = entry.event.data.task_id;
            !ledger.is_delivered(entry.seq, task) && wanted(entry.seq, task)
        };
        let entries = entries.into_iter().filter(wanted).collect();
        OutboxScan { entries, unreadable: Vec::new(), next, is_end }
    }

    /// How long the oldest event has waited; zero where none waits, `None` where the disk does not say in time.
    pub async fn oldest_age(&self) -> Option<Duration> {
        if self.outbox().borrow().waiting == 0 {
            return Some(Duration::ZERO);
        }
        let oldest = timeout(AGE_TIMEOUT, self.outbox_after(0, 1)).await.ok()?.ok()?;
        let age = oldest.first().map(|oldest| (Utc::now() - oldest.event.occurred_at).num_milliseconds());
        Some(Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)))
    }

    /// The first events in the outbox behind `seq`, at most `limit`. One that cannot be read stays there, is
    /// reported, and hides none of those after it.
    pub async fn outbox_after(&self, seq: u64, limit: usize) -> Result<Vec<Arc<OutboxEntry>>, StoreError> {
        let (mut from, mut found) = (seq.saturating_add(1), Vec::new());
        loop {
            let mut left = limit - found.len();
            let wanted = move |_, _| {
                let is_wanted = left > 0;
                left = left.saturating_sub(1);
                is_wanted
            };
            let scan = self.outbox_scan(from, SCAN, wanted).await?;
            found.extend(scan.entries);
            if scan.is_end || found.len() >= limit {
                return Ok(found);
            }
            from = scan.next;
        }
    }

    /// The events in the outbox that have to do with an id (of an event, a task or a request), and whether all of
    /// it was looked at: a long outbox is not, nor are more events found than can be shown.
    pub async fn outbox_about(&self, id: Uuid) -> Result<(Vec<Arc<OutboxEntry>>, bool), StoreError> {
        let is_about = |entry: &Arc<OutboxEntry>| {
            let event = &entry.event;
            [event.event_id, event.data.task_id, event.metadata.correlation_id].contains(&id)
        };
        let until = Instant::now() + ABOUT_TIMEOUT;
        let (mut from, mut found) = (1, Vec::new());
        loop {
            let scan = self.outbox_scan(from, SCAN, |_, _| true).await?;
            found.extend(scan.entries.into_iter().filter(is_about));
            if scan.is_end || found.len() >= MAX_ABOUT || Instant::now() >= until {
                let is_complete = scan.is_end && found.len() <= MAX_ABOUT;
                found.truncate(MAX_ABOUT);
                return Ok((found, is_complete));
            }
            from = scan.next;
        }
    }

    /// For each partition that was ever written to: the offset behind the last acknowledged event.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        self.shared.ledger().positions()
    }

    /// The topic that the positions are about.
    pub fn published_topic(&self) -> Option<PublishedTopic> {
        self.shared.ledger().topic()
    }
}

/// Entries that are looked at in one go.
const SCAN: usize = 1_024;

/// Reads events of one segment, from `first` to `last`; its frames are read from that place on.
fn read_log(
    shared: &Shared,
    place: Place,
    first: u64,
    last: u64,
    limit: usize,
    mut wanted: impl FnMut(u64, Uuid) -> bool,
) -> Result<OutboxScan, StoreError> {
    let mut scan = OutboxScan { next: first, ..OutboxScan::default() };
    let lost = |from: u64, to: u64, why: &str| {
        let what = if from < to {
            format!("events {from} to {to} of the outbox")
        } else {
            format!("event {to} of the outbox")
        };
        Unreadable::new(what, format!("{}: {why}", shared.files.path(place.segment).display()))
    };
    let failed = |error: std::io::Error| {
        StoreError::Unavailable(format!("{}: {error}", shared.files.path(place.segment).display()))
    };
    let gone = |scan: OutboxScan, unreadable: Unreadable| {
        // Delivered meanwhile, and used again?
        let unreadable = if shared.ledger().is_needed(place.segment) { vec![unreadable] } else { Vec::new() };
        OutboxScan { next: last + 1, unreadable: [scan.unreadable, unreadable].concat(), ..scan }
    };
    let segment = match shared.files.open(place.segment) {
        Ok(segment) => segment,
        Err(SegmentError::Io(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(error));
        }
        Err(error) => return Ok(gone(scan, lost(first, last, &error.to_string()))),
    };
    let mut frames = segment.frames_from(place.offset);
    let (mut seen, mut seq, mut is_damaged) = (0, 0, false);
    while scan.next <= last && seen < limit {
        let offset = frames.offset();
        let Some(frame) = frames.next().map_err(failed)? else {
            // Damage: the next whole frame is looked for.
            let behind = offset + 1..shared.limits.segment_bytes;
            if frames.find(behind, |numbers| numbers.seq > seq).map_err(failed)?.is_none() {
                let next = scan.next;
                return Ok(gone(scan, lost(next, last, "it is damaged there")));
            }
            is_damaged = true;
            continue;
        };
        seq = frame.seq;
        let place = Place { offset: frame.offset, ..place };
        let (first_event, events) = match Operation::read(frame.payload) {
            Some(Operation::Change(change)) => {
                let task = change.task.id;
                (change.first_event, change.events.into_iter().map(|event| (task, event)).collect())
            }
            Some(Operation::Moved { seq, task, event }) => (seq, vec![(task, event)]),
            Some(_) => (0, Vec::new()),
            None => {
                is_damaged = true;
                (0, Vec::new())
            }
        };
        for (number, (task, event)) in (first_event..).zip(events) {
            if number < scan.next || number > last || seen >= limit {
                continue;
            }
            if is_damaged && number > scan.next {
                scan.unreadable.push(lost(scan.next, number - 1, "it is damaged there"));
            }
            is_damaged = false;
            take(shared, &mut scan, place, number, task, event, &mut wanted);
            seen += 1;
        }
    }
    Ok(scan)
}

fn take(
    shared: &Shared,
    scan: &mut OutboxScan,
    place: Place,
    number: u64,
    task: Uuid,
    event: EventBytes<'_>,
    wanted: &mut impl FnMut(u64, Uuid) -> bool,
) {
    scan.next = number + 1;
    let mut ledger = shared.ledger();
    ledger.found(number, place);
    if ledger.is_delivered(number, task) || !wanted(number, task) {
        return;
    }
    drop(ledger);
    match read_event(number, event) {
        Ok(entry) => scan.entries.push(Arc::new(entry)),
        Err(unreadable) => scan.unreadable.push(unreadable),
    }
}
