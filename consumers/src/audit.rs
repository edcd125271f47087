//! The audit service: every event, one line in a log, each exactly once and in the topic's order.
//!
//! Three things on disk or in Kafka tell how far the service is, and each may lag behind the one before it,
//! never ahead:
//!
//! ```text
//! audit log (synced)  >=  index of ids, with its mark  and  audit log (synced)  >=  committed offset
//! ```
//!
//! # Invariants
//!
//! 1. *The log is the truth.* A line is written and synced before its id enters the index and before its
//!    offset is committed. So whatever is lost of the other two can be had from the log.
//! 2. *The mark names what the index holds*: the log's length, its last line and the number of ids, in one
//!    transaction with the ids. An index that lacks anything of the log shows it by its mark or its count.
//! 3. *No line is written while the index lags.* Before a batch is appended, the index's mark has to name
//!    the end of the log; if it does not, the index catches up from the log and what it then knows is taken
//!    out of the batch. So an id that stands in the log is never written again.
//! 4. *At most 4 MiB of the log's end are not synced.* Appends are that long at most, one after another. So
//!    what a crash can damage lies there; an invalid line further up is no torn tail, and the service
//!    refuses to go on from it.
//! 5. *One process appends*: the log file itself is locked.
//!
//! # Crash points
//!
//! | the process or the machine dies | the next start finds |
//! | --- | --- |
//! | before or in the write | nothing, or a torn tail beyond the mark: cut off; the events are read again from after the last whole line |
//! | after the write, before the sync | whole lines: written again and synced before anything builds on them; or, after a power cut, the case above |
//! | after the sync, before the index | lines beyond the mark: added to the index; reading resumes after the last line |
//! | after the index, before the commit | nothing to do; reading resumes after the last line, not at the commit |
//! | later, with index transactions that were not durable yet | a mark that is older: the lines beyond it are added to the index |
//! | while recovering | the same again: the index grows in whole chunks, each with its mark; the tail is cut after its copy is synced |
//!
//! A write or sync that fails while the process lives (a full disk) ends like the first two: the next try
//! cuts the log back to its last good length and writes the whole batch again.

mod extent;
mod line;
mod log;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use task_events::dedup::{Dedup, DedupError};
use task_events::disk::{Disk, FileSystem};
use task_events::event::{Event, Malformed, format_time};
use task_events::kafka::{Position, Record};
use task_events::logging::escape_control;
use task_events::runtime::{Delivery, Done, Handler, HandlerError, OwnPosition, Service};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::extent::Extent;
use self::log::{Appender, MAX_UNSYNCED, Storage};
use self::recovery::{Scan, ScanError, names_last_line, recover, scan};
use crate::service::Opened;

pub use line::{At, Line, parse, render};

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be opened or made.
    #[error("audit log {} cannot be opened: {source}; set AUDIT_LOG_PATH to a file in a folder that exists and that this user may write", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("audit log {} is in use by another process: stop it, or set another AUDIT_LOG_PATH (and another GROUP)", path.display())]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// It is damaged where no crash could have done it.
    #[error("audit log {} is damaged at byte {at}: no audit line stands there, and what follows was written and synced; it is left as it is: mend it or move it away", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the damage starts.
        at: u64,
    },
    /// What follows the last whole line cannot be kept aside.
    #[error("audit log {} ends in a torn line that cannot be copied to {}: {source}; nothing is cut off before", path.display(), aside.display())]
    KeepAside {
        /// The log.
        path: PathBuf,
        /// Where to.
        aside: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading or mending it failed.
    #[error("audit log {} cannot be recovered: {source}", path.display())]
    Recover {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index cannot be used.
    #[error(transparent)]
    Index(#[from] DedupError),
}

/// Opens log and index, and brings them together. Blocks.
pub fn open(log: &Path, state_dir: &Path) -> Result<Opened<Audit>, AuditError> {
    let (file, length) = log::open(log)?;
    let audit = Audit::recover(Arc::new(FileSystem), file, length, log, &state_dir.join("dedup"))?;
    let index = audit.index();
    ::log::info!("Loaded {} previously seen events", index.len()?);
    let at_end = {
        let index = index.clone();
        move || {
            if let Err(error) = index.checkpoint() {
                ::log::warn!("the next start has a little more to do: {error}");
            }
        }
    };
    Ok(Opened { service: audit, at_end: Box::new(at_end) })
}

/// Writes events to the audit log: the service, and the handler of one of its partitions. All share one
/// writer; the lines that wait for a flush are each handler's own.
#[derive(Debug)]
pub struct Audit<S = File> {
    writer: Arc<Mutex<Writer<S>>>,
    index: Dedup,
    /// How far the log is in this handler's partition.
    own: OwnPosition,
    /// Lines that wait for the flush.
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Writer<S> {
    path: PathBuf,
    appender: Appender<S>,
    /// The log as far as it is synced.
    extent: Extent,
    index: Dedup,
    /// The lines of the flush in progress.
    pending: VecDeque<Pending>,
}

#[derive(Debug, Clone)]
struct Pending {
    event_id: Uuid,
    at: At<'static>,
    bytes: Vec<u8>,
    /// What is logged once the line is on disk.
    said: String,
}

/// Why a flush failed. The runtime tries again.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error("cannot write audit log {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot bring the index level with audit log {}: {source}", path.display())]
    CatchUp { path: PathBuf, source: ScanError },
    #[error("audit log {} was changed by another hand: no audit line stands at byte {at}", path.display())]
    Damaged { path: PathBuf, at: u64 },
}

impl<S: Storage> Audit<S> {
    fn recover(
        disk: Arc<dyn Disk>,
        storage: S,
        length: u64,
        path: &Path,
        index_path: &Path,
    ) -> Result<Self, AuditError> {
        let (index, extent) = recover(&disk, &storage, length, path, index_path)?;
        let appender = Appender::new(storage);
        let writer = Writer {
            path: path.to_owned(),
            appender,
            extent,
            index: index.clone(),
            pending: VecDeque::new(),
        };
        Ok(Self::with(Arc::new(Mutex::new(writer)), index, OwnPosition::Empty))
    }

    fn with(writer: Arc<Mutex<Writer<S>>>, index: Dedup, own: OwnPosition) -> Self {
        Self { writer, index, own, pending: VecDeque::new() }
    }

    fn index(&self) -> Dedup {
        self.index.clone()
    }

    /// Where to go on after the last line of a partition. Blocks.
    #[cfg(test)]
    fn resume_from(&self, topic: &str, partition: i32) -> Option<i64> {
        lock(&self.writer).resume_from(topic, partition)
    }

    /// Runs work on the writer with the lines that wait, which keep waiting if it fails.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Writer<S>) -> Result<T, FlushError> + Send + 'static,
    ) -> Result<T, HandlerError> {
        let (writer, pending) = (Arc::clone(&self.writer), self.pending.clone());
        let worked = spawn_blocking(move || {
            let mut writer = lock(&writer);
            // What a failed flush left is in the queue of its handler.
            writer.pending = pending;
            work(&mut writer)
        });
        let worked = worked.await.map_err(|error| HandlerError::new("audit_log", error))?;
        let worked = worked.map_err(|error| HandlerError::new("audit_log", error))?;
        self.pending.clear();
        Ok(worked)
    }

    /// Writes and syncs the lines that wait. Returns the mark for the index.
    #[cfg(test)]
    async fn write_lines(&mut self) -> Result<Option<Vec<u8>>, HandlerError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        self.with_writer(Writer::flush).await
    }
}

impl<S: Storage> Service for Audit<S> {
    type Handler = Self;

    async fn open(&self, topic: &str, partition: i32) -> Result<Self, HandlerError> {
        let (writer, topic) = (Arc::clone(&self.writer), topic.to_owned());
        let own = spawn_blocking(move || lock(&writer).resume_from(&topic, partition)).await;
        let own = own.map_err(|error| HandlerError::new("audit_log", error))?;
        let own = own.map_or(OwnPosition::Empty, |offset| OwnPosition::At(Position::at(offset)));
        Ok(Self::with(Arc::clone(&self.writer), self.index.clone(), own))
    }
}

fn lock<S>(writer: &Mutex<Writer<S>>) -> MutexGuard<'_, Writer<S>> {
    // A panic leaves lines pending or the file dirty, and the next flush takes both up.
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Storage> Handler for Audit<S> {
    type Message = Event;

    fn decode(&self, record: &Record) -> Result<Event, Malformed> {
        Event::decode(record.value.as_deref())
    }

    fn dedup_id(&self, event: &Event) -> Option<Uuid> {
        Some(event.event_id)
    }

    fn wants(&self, _: &Event) -> bool {
        true
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Event>) -> Result<(), HandlerError> {
        let event = delivery.message;
        let at = At {
            topic: delivery.topic.to_owned().into(),
            partition: delivery.partition,
            offset: delivery.offset,
        };
        let bytes = render(event, &format_time(Utc::now()), at.clone())
            .map_err(|error| HandlerError::new("audit_line", error))?;
        let task_id = line::task_id(event, delivery.record.key.as_deref());
        let said =
            format!("AUDIT: {} - task_id={}", escape_control(&event.event_type), escape_control(&task_id));
        self.pending.push_back(Pending { event_id: event.event_id, at, bytes, said });
        Ok(())
    }

    async fn known(&mut self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.index.known(ids.to_vec()).await.map_err(|error| HandlerError::new("audit_index", error))
    }

    async fn flush(&mut self, _: &Done<'_>) -> Result<(), HandlerError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.with_writer(Writer::flush_and_record).await
    }

    fn own_position(&self) -> OwnPosition {
        self.own
    }
}

impl<S: Storage> Writer<S> {
    fn resume_from(&self, topic: &str, partition: i32) -> Option<i64> {
        self.extent.last_offset(topic, partition).map(|offset| offset + 1)
    }

    /// Writes and syncs all pending lines, then adds their ids to the index, with the log's new mark.
    fn flush_and_record(&mut self) -> Result<(), FlushError> {
        let ids: Vec<Uuid> = self.pending.iter().map(|line| line.event_id).collect();
        if let Some(mark) = self.flush()? {
            self.index
                .record_blocking(&ids, &mark)
                .map_err(|error| FlushError::CatchUp { path: self.path.clone(), source: error.into() })?;
        }
        Ok(())
    }

    /// Writes and syncs all pending lines. Returns the mark of the log as it then is.
    fn flush(&mut self) -> Result<Option<Vec<u8>>, FlushError> {
        let lags = |source| FlushError::CatchUp { path: self.path.clone(), source };
        if !self.index_is_level().map_err(lags)? {
            self.catch_up()?;
        }
        while let Some((bytes, count)) = self.next_append() {
            self.appender
                .append(&bytes, self.extent.length)
                .map_err(|source| FlushError::Write { path: self.path.clone(), source })?;
            for line in self.pending.drain(..count) {
                self.extent.add(line.event_id, &line.at, line.bytes.len());
                ::log::info!("{}", line.said);
            }
        }
        self.extent
            .to_mark()
            .map_err(|error| FlushError::CatchUp { path: self.path.clone(), source: ScanError::Mark(error) })
    }

    /// The bytes of as many pending lines as may be written between two syncs, and their number.
    fn next_append(&self) -> Option<(Vec<u8>, usize)> {
        let mut bytes = self.pending.front()?.bytes.clone();
        let mut count = 1;
        for line in self.pending.iter().skip(1) {
            if (bytes.len() + line.bytes.len()) as u64 > MAX_UNSYNCED {
                break;
            }
            bytes.extend_from_slice(&line.bytes);
            count += 1;
        }
        Some((bytes, count))
    }

    /// Whether the index holds all that stands in the log.
    fn index_is_level(&self) -> Result<bool, ScanError> {
        Ok(self.index.mark()? == self.extent.to_mark()? && self.index.len()? == self.extent.ids)
    }

    /// Adds to the index what it lacks, and takes out of the batch what it knows then. Needed after a batch
    /// that was written but not recorded (the lease was lost in between, or the write failed in its
    /// middle), and after an I/O error of the index, which takes its last transactions.
    fn catch_up(&mut self) -> Result<(), FlushError> {
        ::log::warn!("the index lags behind {}: catching up from the log", self.path.display());
        let lags = |source| FlushError::CatchUp { path: self.path.clone(), source };
        let start = self.indexed().map_err(lags)?;
        let mut in_log = std::collections::HashSet::new();
        let waiting: std::collections::HashSet<Uuid> =
            self.pending.iter().map(|line| line.event_id).collect();
        let storage = self.appender.storage();
        let scanned = scan(storage, start, self.extent.length, &self.index, |id| {
            if waiting.contains(&id) {
                in_log.insert(id);
            }
        });
        let Scan { mut extent, invalid } = scanned.map_err(lags)?;
        if let Some(invalid) = invalid {
            return Err(FlushError::Damaged { path: self.path.clone(), at: invalid.at });
        }
        extent.ids = self.index.len().map_err(|error| lags(error.into()))?;
        if let Some(mark) = extent.to_mark().map_err(|error| lags(error.into()))? {
            self.index.record_blocking(&[], &mark).map_err(|error| lags(error.into()))?;
        }
        self.pending.retain(|line| !in_log.contains(&line.event_id));
        self.extent = extent;
        Ok(())
    }

    /// How far the index is sure to hold the log.
    fn indexed(&self) -> Result<Extent, ScanError> {
        let mark = self.index.mark()?;
        let Some(extent) = mark.as_deref().and_then(Extent::from_mark) else { return Ok(Extent::default()) };
        let fits = extent.length <= self.extent.length
            && extent.ids == self.index.len()?
            && names_last_line(self.appender.storage(), &extent)?;
        Ok(if fits { extent } else { Extent::default() })
    }
}
