//! What the store's threads share.
//!
//! Locks are held for no longer than it takes to look into memory, but for that of the database, which the applier
//! takes for itself while it opens the file again. Of two, that of the overlay is taken before that of the ledger.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use redb::Database;
use task_events::disk::FileIdentity;
use task_events::metrics::Histogram;
use tokio::sync::watch;

use super::answers::Answers;
use super::delivery::OutboxState;
use super::draft::{Draft, Effect};
use super::failure::{Failures, Part, Reported, Unreadable, WriteFailure};
use super::job::LazyDelivery;
use super::operation::TaskWrite;
use super::outbox::Ledger;
use super::overlay::{Frozen, Overlay};
use super::schema;
use super::wal::files::Files;
use super::wal::{Limits, Place, Position};
use crate::event_format::EventFormat;

/// What is known of the writer's waits for the disk.
///
/// Invariant: whose change was refused because it took too long finds the store failing until the writer has answered a
/// batch that it began after that change was sent; also where its thread comes to the change only after the refusal.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Waits {
    /// Since when it has been at work on a batch.
    writing: Option<Instant>,
    /// When it began the last batch that it has answered.
    answered: Option<Instant>,
    /// When the last change was sent that was refused.
    refused: Option<Instant>,
}

/// What threads share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Empty while the applier reopens the file after a failure: redb takes nothing more after an I/O error.
    pub(super) database: RwLock<Result<Database, String>>,
    pub(super) answers: Answers,
    /// The database's file; `None` where the disk did not say.
    pub(super) identity: Mutex<Option<FileIdentity>>,
    pub(super) files: Arc<Files>,
    pub(super) limits: Limits,
    pub(super) overlay: RwLock<Overlay>,
    pub(super) ledger: Mutex<Ledger>,
    /// Up to where the database has the log.
    pub(super) applied: Mutex<Position>,
    /// The database has more of it.
    pub(super) more_applied: Condvar,
    /// Deliveries that are written with the next changes.
    pub(super) lazy: Mutex<Vec<LazyDelivery>>,
    /// Why changes are refused, while they are.
    pub(super) failures: Mutex<Failures>,
    /// That a file is not where it was opened, while it is not.
    pub(super) misplaced: Mutex<Option<WriteFailure>>,
    /// The writer was asked to look where the files are, and has not yet.
    pub(super) is_looked_for: AtomicBool,
    pub(super) waits: Mutex<Waits>,
    /// What was found to be unreadable.
    pub(super) reported: Mutex<Reported>,
    /// What is in the outbox: the last sequence number on disk, and how many events wait.
    pub(super) outbox: watch::Sender<OutboxState>,
    /// Groups of the writer since the start.
    pub(super) commits: AtomicU64,
    /// How events are encoded from now on.
    pub(super) event_format: OnceLock<EventFormat>,
    /// Groups appended to the log: one write and one fdatasync each.
    pub(super) appends: Histogram,
}

impl Shared {
    pub(super) fn event_format(&self) -> EventFormat {
        self.event_format.get().copied().unwrap_or_default()
    }

    pub(super) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, unreadable: &Unreadable) {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).report(unreadable);
    }

    /// Shows a group that is on disk to everybody. Returns whether a segment may be free now.
    pub(super) fn publish(&self, start: Place, bytes: usize, draft: &mut Draft) -> bool {
        let state = {
            let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
            let mut ledger = self.ledger();
            let needed = ledger.first_waiting();
            take_effects(&mut overlay, &mut ledger, start, bytes, draft);
            ledger.remember(draft.events.drain(..));
            (ledger.state(), ledger.first_waiting() > needed)
        };
        let (outbox, is_free) = state;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.outbox.send_if_modified(|state| std::mem::replace(state, outbox) != outbox);
        is_free
    }

    /// What the active generation has goes into the database from now on.
    pub(super) fn freeze(&self, meta: schema::Meta) {
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        let generation = std::mem::take(&mut overlay.active);
        overlay.frozen = Some(Arc::new(Frozen { generation, meta }));
    }

    /// The database has the frozen generation.
    pub(super) fn applied(&self, position: Position) {
        let frozen = {
            let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
            overlay.frozen.take()
        };
        // Thousands of tasks: not under the lock.
        drop(frozen);
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = position;
        self.more_applied.notify_all();
    }

    pub(super) fn applied_position(&self) -> Position {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the database has more of the log, or after that time.
    pub(super) fn wait_for_applied(&self, most: Duration) {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.more_applied.wait_timeout(applied, most));
    }

    pub(super) fn begin_writing(&self) {
        self.waits().writing = Some(Instant::now());
    }

    pub(super) fn end_writing(&self) {
        let mut waits = self.waits();
        waits.answered = waits.writing.take();
    }

    /// A change was refused because it took too long: so much.
    pub(super) fn refused_as_slow(&self, waited: Duration) {
        let sent = Instant::now().checked_sub(waited);
        let mut waits = self.waits();
        waits.refused = waits.refused.max(sent);
    }

    /// How long the disk has not answered, if that is too long: the limit, or whatever a change was refused for.
    pub(super) fn hangs(&self, limit: Duration) -> Option<Duration> {
        let Waits { writing, answered, refused } = *self.waits();
        let refused = refused.filter(|sent| answered.is_none_or(|begun| begun < *sent));
        let waited = writing.or(refused)?.elapsed();
        (refused.is_some() || waited >= limit).then_some(waited)
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_lazy(&self) -> Vec<LazyDelivery> {
        std::mem::take(&mut *self.lazy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn identity(&self) -> Option<FileIdentity> {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_identity(&self, identity: Option<FileIdentity>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_failure(&self) -> Option<WriteFailure> {
        self.failures().current().cloned()
    }

    pub(super) fn failing(&self, part: Part, path: &Path, why: String) {
        self.failures().begin(part, path, why);
    }

    pub(super) fn still_failing(&self, path: &Path) {
        self.failures().renew(path);
    }

    pub(super) fn works(&self, part: Part, path: &Path) {
        self.failures().end(part, path);
    }
}

/// What a group changes in memory, which begins there in the log and has so many bytes.
pub(super) fn take_effects(
    overlay: &mut Overlay,
    ledger: &mut Ledger,
    start: Place,
    bytes: usize,
    draft: &mut Draft,
) {
    for (offset, effect) in draft.effects.drain(..) {
        let place = Place { offset: start.offset + offset, ..start };
        take_effect(overlay, ledger, place, effect);
    }
    overlay.active.bytes += bytes;
}

/// What a frame changes in memory: the same after a start as when it was made.
pub(super) fn take_effect(overlay: &mut Overlay, ledger: &mut Ledger, place: Place, effect: Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Change { task, write, answer, first_event, events } => {
            match write {
                TaskWrite::None => {}
                TaskWrite::Put => overlay.active.put_task(task),
                TaskWrite::Delete => overlay.active.delete_task(task.id),
            }
            if let Some((key, answer)) = answer {
                overlay.active.answers.insert(key, answer);
            }
            ledger.add(place, first_event, events);
        }
        Effect::Delivered(delivered) => ledger.deliver(&delivered),
        Effect::PublishTo(topic) => ledger.publish_to(topic),
        Effect::Moved(seq) => {
            overlay.active.moved.push(seq);
            ledger.add(place, seq, 1);
        }
    }
}
