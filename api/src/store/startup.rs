//! Opening the store: the database says up to where it has the log, and the rest is read back.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};

use redb::{Database, ReadableDatabase};
use task_events::disk::Disk;
use task_events::error_code::Code;
use task_events::metrics::Histogram;
use tokio::sync::{mpsc, watch};

use super::answers::Answers;
use super::applier::Applier;
use super::bulk;
use super::draft::{Draft, Effect};
use super::failure::{self, StoreError, Unreadable};
use super::job::Job;
use super::operation::Operation;
use super::outbox::Ledger;
use super::overlay::{Frozen, Generation, Overlay};
use super::schema::{self, Meta, OUTBOX, read_former_event};
use super::shared::{Shared, take_effect, take_effects};
use super::wal::appender::Appender;
use super::wal::files::Files;
use super::wal::recovery::{Found, LogError, read_tail};
use super::wal::{Limits, Position};
use super::writer::Writer;

/// Changes that wait for the writer, at most; beyond that callers are refused (backpressure).
pub(super) const MAX_QUEUED_CHANGES: usize = 4_096;

/// A store that runs.
pub(super) struct Opened {
    pub(super) shared: Arc<Shared>,
    /// Takes what the writer has to do.
    pub(super) queue: mpsc::Sender<Job>,
    /// Ends when the queue is closed and all of it is done.
    pub(super) writer: JoinHandle<()>,
}

/// What the log and the database have together.
pub(super) struct State {
    pub(super) overlay: Overlay,
    pub(super) ledger: Ledger,
    pub(super) meta: Meta,
    pub(super) position: Position,
}

/// Opens the store in the folder, or makes it, and starts its threads. Blocks.
pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, limits: Limits) -> Result<Opened, StoreError> {
    let path = dir.join("tasks.redb");
    let of_database = |error: redb::Error| {
        StoreError::Unavailable(format!("{}: {error}; {}", path.display(), failure::remedy(&error)))
    };
    let of_log =
        |error: LogError| StoreError::Unavailable(format!("{error}; {}", failure::log_remedy(&error)));
    let (database, meta) = schema::open(&*disk, &path).map_err(of_database)?;
    if let Some(moved) = meta.moved {
        return Err(StoreError::Moved { folder: dir.to_owned(), moved });
    }
    let answers = Answers::open(Arc::clone(&disk), &path, &database, limits.answers).map_err(of_database)?;
    let files = Files::find(Arc::clone(&disk), &path, meta.store, limits);
    let files = Arc::new(files.map_err(|error| of_log(error.into()))?);
    let (mut state, found) = read_back(&*disk, &files, &limits, meta).map_err(of_log)?;
    for number in &found.empty {
        files.retire(*number).map_err(|error| of_log(error.into()))?;
    }
    let appender = Appender::after(Arc::clone(&files), limits, found.end.seq);
    let mut appender = appender.map_err(|error| of_log(error.into()))?;
    let unreadable =
        move_former_events(&database, &answers, &mut appender, &mut state, &limits).map_err(of_database)?;

    let State { overlay, ledger, meta, position } = state;
    let shared = Arc::new(Shared {
        identity: Mutex::new(disk.identity(&path).ok()),
        database: RwLock::new(Ok(database)),
        answers,
        files: Arc::clone(&files),
        limits,
        overlay: RwLock::new(overlay),
        outbox: watch::Sender::new(ledger.state()),
        ledger: Mutex::new(ledger),
        applied: Mutex::new(meta.applied),
        more_applied: Condvar::new(),
        lazy: Mutex::default(),
        failures: Mutex::default(),
        misplaced: Mutex::default(),
        is_looked_for: AtomicBool::new(false),
        waits: Mutex::default(),
        reported: Mutex::default(),
        commits: AtomicU64::new(0),
        event_format: OnceLock::new(),
        appends: Histogram::default(),
    });
    unreadable.iter().for_each(|unreadable| shared.report(unreadable));
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(|error| StoreError::Unavailable(format!("cannot start the thread {name}: {error}")))
    };
    let (work, works) = std_mpsc::channel();
    let applier = Applier::new(Arc::clone(&disk), path.clone(), Arc::clone(&shared), files, limits);
    let applier = spawn("store-applier", Box::new(move || applier.run(&works)))?;
    let (queue, jobs) = mpsc::channel(MAX_QUEUED_CHANGES);
    let writer = Writer::new(disk, path, Arc::clone(&shared), appender, position, meta, work, applier);
    let writer = spawn("store-writer", Box::new(move || writer.run(jobs)))?;
    Ok(Opened { shared, queue, writer })
}

/// What the log has behind the database, as it was before the store was closed or killed.
fn read_back(
    disk: &dyn Disk,
    files: &Files,
    limits: &Limits,
    meta: Meta,
) -> Result<(State, Found), LogError> {
    let mut overlay = Overlay::default();
    let mut ledger = Ledger::from_stored(meta.outbox.clone());
    let found = read_tail(disk, files, limits, meta.applied, |place, frame| {
        let Some(effect) = Operation::read(frame.payload).map(effect) else {
            return Err(LogError::Damaged(format!(
                "{}: frame {} is none that this program knows: start the one that wrote it",
                files.path(place.segment).display(),
                frame.seq
            )));
        };
        overlay.active.bytes += super::wal::frame::HEADER + frame.payload.len();
        take_effect(&mut overlay, &mut ledger, place, effect);
        Ok(())
    })?;
    if found.is_gone {
        let lost = ledger.lose_all();
        log::error!(
            "the log of the store (tasks.log-*) is gone: {lost} events that waited in it are lost, and so is every change that the database did not have yet; the store goes on with what that has {}",
            Code::StoreLogGone
        );
    }
    let position = found.end;
    Ok((State { overlay, ledger, meta, position }, found))
}

fn effect(operation: Operation<'_>) -> Effect {
    match operation {
        Operation::Nothing => Effect::Nothing,
        Operation::Change(change) => Effect::Change {
            task: change.task,
            write: change.write,
            answer: change.answer.map(|(key, answer)| (key, Arc::new(answer))),
            first_event: change.first_event,
            events: change.events.len() as u64,
        },
        Operation::Delivered(delivered) => Effect::Delivered(delivered),
        Operation::PublishTo(topic) => Effect::PublishTo(topic),
        Operation::Moved { seq, .. } => Effect::Moved(seq),
    }
}

/// Brings the events that wait in the table of a former version into the log, in order. Those that cannot be read
/// stay there, and are returned. Where this was cut short, it goes on with the next start.
fn move_former_events(
    database: &Database,
    answers: &Answers,
    appender: &mut Appender,
    state: &mut State,
    limits: &Limits,
) -> Result<Vec<Unreadable>, redb::Error> {
    if schema::former_events(database)? == 0 {
        return Ok(Vec::new());
    }
    let moved: HashSet<u64> = state.overlay.active.moved.iter().copied().collect();
    let (mut draft, mut unreadable, mut count) = (Draft::default(), Vec::new(), 0_u64);
    // As it is now, also while what was moved is removed.
    let read = database.begin_read()?;
    for row in read.open_table(OUTBOX)?.range::<u64>(..)? {
        let (seq, value) = row?;
        if moved.contains(&seq.value()) {
            continue;
        }
        match read_former_event(seq.value(), value.value()) {
            Ok(entry) => draft.moved(&entry),
            Err(error) => unreadable.push(error),
        }
        if draft.frames.len() >= limits.group_bytes {
            count += append(appender, &mut draft, state)?;
            if state.overlay.active.bytes >= limits.generation_bytes {
                apply_now(database, answers, state, limits)?;
            }
        }
    }
    count += append(appender, &mut draft, state)?;
    if count > 0 {
        apply_now(database, answers, state, limits)?;
        log::info!("{count} events that waited in the outbox of a former version are in the log now");
    }
    state.ledger.set_unreadable(unreadable.clone());
    Ok(unreadable)
}

/// Writes a draft to the log. Returns how many frames it had.
pub(super) fn append(
    appender: &mut Appender,
    draft: &mut Draft,
    state: &mut State,
) -> Result<u64, redb::Error> {
    if draft.is_empty() {
        return Ok(0);
    }
    let length = draft.frames.len();
    let (start, end) = appender.append(&mut draft.frames)?;
    let count = draft.effects.len() as u64;
    take_effects(&mut state.overlay, &mut state.ledger, start, length, draft);
    draft.clear();
    state.position = end;
    Ok(count)
}

/// Puts into the database what the log has.
pub(super) fn apply_now(
    database: &Database,
    answers: &Answers,
    state: &mut State,
    limits: &Limits,
) -> Result<(), redb::Error> {
    let generation: Generation = std::mem::take(&mut state.overlay.active);
    if generation.has_deletions() {
        state.meta.has_deletions();
    }
    let meta = state.meta.at(state.position, state.ledger.stored());
    let frozen = Frozen { generation, meta };
    bulk::apply(database, answers, &frozen, limits)?;
    state.meta = frozen.meta;
    Ok(())
}
