//! The audit service: every event, one line in a log, each exactly once and in the topic's order.
//!
//! The log is a file and the segments that were sealed before it. Three things on disk or in Kafka tell how
//! far the service is, and each may lag behind the one before it, never ahead:
//!
//! ```text
//! audit log (synced)  >=  index of ids, with its mark  and  audit log (synced)  >=  committed offset
//! ```
//!
//! # Invariants
//!
//! 1. *The log is the truth.* A line is written and synced before its id enters the index and before its
//!    offset is committed. So whatever is lost of the other two can be had from the log.
//! 2. *The mark names what the index holds*: the file's length, its last line, the number of ids, how many of
//!    them are in sealed segments, and where reading goes on, in one transaction with the ids. Ids are
//!    numbered in the order of their lines, so that those of lines that are gone can be known and forgotten.
//! 3. *No line is written while the index lags.* Before lines are appended, the index's mark has to name
//!    the end of the log; if it does not, the index catches up from the log. Whoever appends asks the index:
//!    so an id that is in the log is never written again, whatever its partition.
//! 4. *At most 4 MiB of the log's end are not synced.* What a crash can damage is there, and looks like it:
//!    see [`scan`]. Damage of any other kind is refused and left as it is.
//! 5. *One process appends*: the log file itself is locked. One thread of it does, for all partitions.
//! 6. *Nothing is acknowledged that was written into the void*: what another hand does to the file is noticed
//!    before lines are appended, and again after they were synced. See [`journal`].
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
//! | while a segment is sealed, before the mark says so | a segment that ends with the line that the mark names: sealed now |
//! | while recovering | the same again: the index grows in whole chunks, each with its mark; the tail is cut after its copy is synced |
//!
//! A write or sync that fails while the process lives (a full disk) ends like the first two: the next try
//! cuts the log back to its last good length and writes the whole batch again.
//!
//! # Start positions
//!
//! Reading starts at the lower of the committed position and the log's own: the mark's, or the one after the
//! last line where lines are beyond the mark; where several instances share the partitions, at the committed one, unless the
//! log lacks what this instance had committed itself (the table in ARCHITECTURE.md). So a log that was restored from a backup is completed, a new log
//! beside an old group of which nobody is left has all that Kafka has, a group that was moved back is read again without a repeat in the
//! log, and one that was moved ahead skips nothing. Lines do not say which topic of a name they are of:
//! where nothing is committed either, reading starts at the earliest record, and what the log has is not repeated.
//!
//! docs/audit-log.md tells operators the same.

mod compare;
mod current;
mod error;
mod file;
mod gone;
mod hole;
mod journal;
mod journal_error;
mod limits;
mod line;
mod mark;
mod pending;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod recovery;
mod scan;
mod segments;
#[cfg(test)]
mod tests;
mod tree;
mod witness;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_tree::Signer;
use serde_json::{Map, Value};
use task_events::disk::FileSystem;
use task_events::error_code::Code;
use task_events::event::Malformed;
use task_events::kafka::ConsumerRecord;
use task_events::metrics::Text;
use task_events::runtime::{Decoder, Delivery, Done, Handler, HandlerError, OwnPosition, Service};
use task_events::schemas::EventReader;
use task_events::terminal::Terminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use self::file::Files as _;
use self::journal::Progress;
use self::pending::Pending;
use self::segments::with_suffix;
use self::tree::{Commits, Tree, passed_on};
use self::writer::{FlushError, Writer};
use crate::service::Opened;

pub use compare::Records;
pub use error::{AuditError, Damage};
pub use limits::Limits;
pub use line::{At, Line, parse, render};
pub use pending::Entry;
pub use witness::WitnessSettings;

/// Opens log and index, and brings them together. Blocks.
pub fn open(log: &Path, state_dir: &Path, reader: EventReader) -> Result<Opened<Audit>, AuditError> {
    open_with(log, state_dir, Settings::default(), reader)
}

/// How a log is kept.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// When it is sealed.
    pub limits: Limits,
    /// Signs the tree over its lines; there is none without.
    pub signer: Option<Signer>,
    /// Cosigns the tree's checkpoints.
    pub witness: Option<WitnessSettings>,
    /// What lines that are found in the log are compared with, before they are signed.
    pub records: Option<Records>,
}

/// Reads the key that signs the tree over a log's lines.
pub fn read_key(path: &Path) -> Result<Signer, AuditError> {
    let failed = |why: String| AuditError::Key { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    Signer::from_pem(&text).map_err(|error| failed(error.to_string()))
}

fn open_with(
    log: &Path,
    state_dir: &Path,
    settings: Settings,
    reader: EventReader,
) -> Result<Opened<Audit>, AuditError> {
    let Settings { limits, signer, records, .. } = settings;
    let tree = signer.map(Tree::start).transpose();
    let tree = tree.map_err(|source| AuditError::Recover { path: log.to_owned(), source })?;
    let tree = tree.map(|tree| if records.is_some() { tree.compared() } else { tree });
    let writer = Writer::start(FileSystem, log, &state_dir.join("dedup"), limits, tree)?;
    ::log::info!("Loaded {} previously seen events", writer.index().len()?);
    let at_end = {
        let writer = writer.clone();
        move || {
            if let Err(error) = writer.checkpoint() {
                ::log::warn!("the next start has a little more to do: {error}");
            }
        }
    };
    let (of_metrics, of_warnings) = (writer.commits().cloned(), writer.commits().cloned());
    let metrics = move |text: &mut Text| {
        file::render_metrics(text);
        tree::render_metrics(text, of_metrics.as_ref());
    };
    let warnings = move || of_warnings.as_ref().map(Commits::troubles).unwrap_or_default();
    let service = Audit { writer, reader };
    let (at_end, metrics, warnings) = (Box::new(at_end), Box::new(metrics), Box::new(warnings));
    Ok(Opened { service, at_end, metrics, warnings })
}

/// A terminal that closes sends SIGHUP first, and is gone a moment later.
const TERMINAL_CLOSES_WITHIN: Duration = Duration::from_millis(200);

/// As [`open`], and seals the log at the limits, and at each SIGHUP that is not that of a terminal that was closed. Within an
/// async runtime.
pub fn open_and_rotate(
    log: &Path,
    state_dir: &Path,
    settings: Settings,
    reader: EventReader,
) -> Result<Opened<Audit>, AuditError> {
    // Before the log is read, which may take a while: a SIGHUP that nobody listens for ends the process.
    let terminal = Terminal::at_start();
    let mut hangups = signal(SignalKind::hangup()).map_err(|source| AuditError::Signal { source })?;
    let (witness, records) = (settings.witness.clone(), settings.records.clone());
    let opened = open_with(log, state_dir, settings, reader.clone())?;
    let writer = opened.service.writer.clone();
    if let Some((witness, commits)) = witness.zip(writer.commits().cloned()) {
        let folder = with_suffix(&FileSystem.real(log), "tree");
        tokio::spawn(witness::run(folder, witness, commits));
    }
    if let Some((records, commits)) = records.zip(writer.commits().cloned()) {
        tokio::spawn(compare::run(records, reader, commits));
    }
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            // A closed terminal asks for a stop, not for this; it may close a moment after its signal.
            sleep(TERMINAL_CLOSES_WITHIN).await;
            if terminal.is_closed() {
                continue;
            }
            if let Err(error) = writer.rotate() {
                ::log::error!("the audit log was not rotated: {error} {}", Code::AuditLogRotate);
            }
        }
    });
    Ok(opened)
}

/// The audit service. All its partitions share one log.
#[derive(Debug)]
pub struct Audit {
    writer: Writer,
    reader: EventReader,
}

impl Service for Audit {
    type Handler = PartitionAudit;

    async fn open(&self, topic: &str, partition: i32) -> Result<PartitionAudit, HandlerError> {
        let opened = self.writer.open(topic, partition).await.map_err(failed)?;
        if let Some(commits) = self.writer.commits() {
            commits.reopen((topic, partition));
        }
        Ok(PartitionAudit {
            writer: self.writer.clone(),
            reader: self.reader.clone(),
            topic: topic.to_owned(),
            partition,
            own: opened.position.map_or(OwnPosition::Empty, OwnPosition::At),
            generation: opened.generation,
            pending: Arc::new(Pending::new(topic, partition)),
        })
    }

    fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    fn commit_meta(
        &self,
        topic: &str,
        partition: i32,
        before: impl FnOnce() -> Map<String, Value>,
    ) -> Map<String, Value> {
        match self.writer.commits() {
            Some(commits) => commits.commit_meta((topic, partition), passed_on(before())),
            // Anchors of other logs stay.
            None => passed_on(before()),
        }
    }
}

/// Writes the events of one partition.
#[derive(Debug)]
pub struct PartitionAudit {
    writer: Writer,
    reader: EventReader,
    topic: String,
    partition: i32,
    /// How far the log is in this partition.
    own: OwnPosition,
    generation: u64,
    /// Lines that wait for the flush. The writer may still hold those of a flush that was given up.
    pending: Arc<Pending>,
}

/// Makes lines of events.
#[derive(Debug, Default)]
pub struct EntryDecoder(EventReader);

impl Decoder for EntryDecoder {
    type Message = Entry;

    fn needs(&self, record: &ConsumerRecord) -> bool {
        self.0.wants(record.value.as_deref()).is_some()
    }

    async fn prepare(&self, record: &ConsumerRecord) -> Result<(), HandlerError> {
        self.0.prepare(record.value.as_deref()).await
    }

    fn decode(&self, record: &ConsumerRecord) -> Result<Entry, Malformed> {
        let event = self.0.read(record.value.as_deref())?;
        Entry::new(&event, record.key.as_deref()).map_err(|error| Malformed::from_json(&error))
    }

    // Repeats are found by the writer, which has to look for them in any case: see invariant 3.

    fn wants(&self, _: &Entry) -> bool {
        true
    }
}

impl Handler for PartitionAudit {
    type Decoder = EntryDecoder;

    fn decoder(&self) -> EntryDecoder {
        EntryDecoder(self.reader.clone())
    }

    fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Entry>) -> Result<(), HandlerError> {
        // Shared only while a flush is tried again, when nothing is handled.
        Arc::make_mut(&mut self.pending).push(delivery.message, delivery.record.offset);
        Ok(())
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<u64, HandlerError> {
        let progress =
            Progress { topic: self.topic.clone(), partition: self.partition, position: done.position };
        let lines = Arc::clone(&self.pending);
        let written = self.writer.flush(lines, progress, self.generation).await.map_err(failed)?;
        let repeats = self.pending.len().saturating_sub(written);
        self.pending = Arc::new(self.pending.like());
        Ok(repeats)
    }

    fn own_position(&self) -> OwnPosition {
        self.own
    }

    async fn superseded(&self) {
        let mut generation = self.writer.generation();
        if generation.wait_for(|generation| *generation != self.generation).await.is_err() {
            // The writer has ended, and says so at the next flush.
            std::future::pending().await
        }
    }
}

fn failed(error: FlushError) -> HandlerError {
    let kind = if matches!(error, FlushError::Reread) { HandlerError::SUPERSEDED } else { "audit_log" };
    HandlerError::new(kind, error)
}
