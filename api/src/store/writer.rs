//! The one thread that makes changes: takes what waits as one group, so that many requests share an fdatasync.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use chrono::{DateTime, SubsecRound, Utc};
use task_events::disk::Disk;
use task_events::error_code::Code;
use tokio::sync::{mpsc, oneshot};

use crate::reply::Group;

use super::applier::{RETRY_EVERY, Work};
use super::apply::View;
use super::change::TaskIds;
use super::draft::Draft;
use super::failure::{ChangeError, Part, StoreError, has_free_space};
use super::job::{Job, LazyDelivery, MutationResult};
use super::placement::Placement;
use super::schema;
use super::shared::Shared;
use super::wal::appender::Appender;
use super::wal::{Limits, Position};

/// Jobs that are taken from the queue at once.
const BATCH: usize = 1_024;

/// Why a group was not made.
#[derive(Debug, thiserror::Error)]
enum GroupError {
    #[error(transparent)]
    Log(#[from] io::Error),
    #[error(transparent)]
    Database(#[from] redb::Error),
}

pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    placement: Placement,
    appender: Appender,
    limits: Limits,
    /// Behind the last frame that was published.
    position: Position,
    /// Up to where the last generation goes.
    frozen: Position,
    /// For the next generation's position.
    meta: schema::Meta,
    draft: Draft,
    /// The segment after which the next one was asked for.
    prepared_after: Option<u64>,
    work: Sender<Work>,
    applier: JoinHandle<()>,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "it is made in one place")]
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        shared: Arc<Shared>,
        appender: Appender,
        position: Position,
        meta: schema::Meta,
        work: Sender<Work>,
        applier: JoinHandle<()>,
    ) -> Self {
        let limits = shared.limits;
        let draft = Draft::default();
        let frozen = meta.applied;
        let placement = Placement::new(disk, path.clone(), Arc::clone(&shared));
        Self {
            path,
            shared,
            placement,
            appender,
            limits,
            position,
            frozen,
            meta,
            draft,
            prepared_after: None,
            work,
            applier,
        }
    }

    /// Runs until all senders are gone and all jobs are done. What is in the log then is put into the database.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut ids = self.task_ids();
        let mut batch = Vec::with_capacity(BATCH);
        let mut group = Vec::with_capacity(BATCH);
        self.prepare();
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.shared.begin_writing();
            self.refuse_if_misplaced(&mut batch);
            self.check_database(&mut batch);
            let mut rest = batch.drain(..);
            // With the first group, not in one of their own behind it.
            let mut lazy = self.shared.take_lazy();
            while !lazy.is_empty() || rest.len() > 0 {
                self.wait_for_database(&mut rest);
                match self.make(&mut rest, &mut lazy, &mut group, &ids) {
                    Ok(outcomes) => self.answer(group.drain(..), outcomes, lazy),
                    Err(error) => {
                        self.recover(&mut jobs, group.drain(..).chain(rest.by_ref()), lazy, &error);
                        ids = self.task_ids();
                    }
                }
                lazy = Vec::new();
            }
            drop(rest);
            self.shared.end_writing();
        }
        self.close();
    }

    /// Takes the changes out of the batch while the files are not in their place. What was delivered to Kafka is
    /// still noted in them: the events in them are not lost, too.
    fn refuse_if_misplaced(&mut self, batch: &mut Vec<Job>) {
        self.shared.is_looked_for.store(false, Ordering::Relaxed);
        if let Some(failure) = self.placement.look(self.appender.segment()) {
            let is_change = |job: &mut Job| matches!(job, Job::Mutate(..));
            for job in batch.extract_if(.., is_change) {
                job.refuse(StoreError::Refused(failure.clone()));
            }
        }
        batch.retain(|job| !matches!(job, Job::Look));
    }

    /// Has the database looked at for those who met an I/O error in it.
    fn check_database(&self, batch: &mut Vec<Job>) {
        for job in batch.extract_if(.., |job| matches!(job, Job::Check(_))) {
            self.wait_for_check();
            if let Job::Check(reply) = job {
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Returns when the applier has looked whether the database is good, and opened it again if not.
    fn wait_for_check(&self) {
        let (reply, checked) = oneshot::channel();
        if self.work.send(Work::Check(reply)).is_ok() {
            let _ = checked.blocking_recv();
        }
    }

    /// Waits while the database has fallen too far behind, and refuses what comes while it cannot be written.
    fn wait_for_database(&self, rest: &mut impl Iterator<Item = Job>) {
        while self.shared.overlay().unapplied() >= self.limits.unapplied_bytes {
            if let Some(failure) = self.shared.write_failure() {
                for job in rest.by_ref() {
                    job.refuse(StoreError::Refused(failure.clone()));
                }
                return;
            }
            self.shared.wait_for_applied(RETRY_EVERY);
        }
    }

    /// One group, on disk when this returns: an outcome for each job that asks for one.
    fn make(
        &mut self,
        rest: &mut impl Iterator<Item = Job>,
        lazy: &mut [LazyDelivery],
        group: &mut Vec<Job>,
        ids: &TaskIds,
    ) -> Result<Vec<Option<MutationResult>>, GroupError> {
        self.draft.clear();
        let mut outcomes = Vec::with_capacity(rest.size_hint().0);
        {
            let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = guard.as_ref().map_err(|why| redb::Error::Corrupted(why.clone()))?;
            let last_seq = self.shared.outbox.borrow().last_seq;
            for (delivered, _) in lazy.iter_mut() {
                self.draft.delivered(std::mem::take(delivered));
            }
            let mut view = View::new(&mut self.draft, &self.shared, database, last_seq);
            while view.frame_bytes() < self.limits.group_bytes {
                let Some(mut job) = rest.next() else { break };
                let outcome = match &mut job {
                    Job::Mutate(mutation, _) => match view.mutate(mutation, ids, now()) {
                        Ok(outcome) => Some(Ok(outcome)),
                        Err(ChangeError::Unreadable(unreadable)) => Some(Err(unreadable)),
                        Err(ChangeError::Database(error)) => {
                            group.push(job);
                            return Err(error.into());
                        }
                    },
                    Job::Delivered(delivered, _) => {
                        view.draft().delivered(std::mem::take(delivered));
                        None
                    }
                    Job::PublishTo(topic, _) => {
                        view.draft().publish_to(*topic);
                        None
                    }
                    Job::Check(_) | Job::Look | Job::Flush => None,
                };
                group.push(job);
                outcomes.push(outcome);
            }
        }
        self.commit()?;
        Ok(outcomes)
    }

    /// Puts the draft on disk and shows it to everybody.
    fn commit(&mut self) -> io::Result<()> {
        if self.draft.is_empty() {
            return Ok(());
        }
        let length = self.draft.frames.len();
        let begun = Instant::now();
        let (start, end) = self.appender.append(&mut self.draft.frames)?;
        self.shared.appends.record(begun.elapsed());
        self.position = end;
        let has_free_segments = self.shared.publish(start, length, &mut self.draft);
        if has_free_segments {
            let _ = self.work.send(Work::Tidy);
        }
        self.prepare();
        let is_due = {
            let overlay = self.shared.overlay();
            overlay.frozen.is_none() && overlay.active.bytes >= self.limits.generation_bytes
        };
        if is_due {
            self.freeze();
        }
        Ok(())
    }

    /// Has all that is in the log put into the database.
    fn freeze(&mut self) {
        if self.shared.overlay().active.has_deletions() {
            self.meta.has_deletions();
        }
        let stored = self.shared.ledger().stored();
        self.shared.freeze(self.meta.at(self.position, stored));
        self.frozen = self.position;
        let _ = self.work.send(Work::Apply);
    }

    fn prepare(&mut self) {
        let segment = self.appender.segment();
        if self.appender.needs_next_soon() && self.prepared_after != segment {
            self.prepared_after = segment;
            let _ = self.work.send(Work::Prepare);
        }
    }

    fn answer(
        &self,
        group: impl Iterator<Item = Job>,
        outcomes: Vec<Option<MutationResult>>,
        lazy: Vec<LazyDelivery>,
    ) {
        let mut replies = Group::default();
        for (job, outcome) in group.zip(outcomes) {
            if let Some(Err(unreadable)) = &outcome {
                self.shared.report(unreadable);
            }
            job.finish(outcome, &mut replies);
        }
        for (_, reply) in lazy {
            let _ = reply.send(Ok(()));
        }
    }

    fn task_ids(&self) -> TaskIds {
        let in_log = self.shared.overlay().last_task();
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let last = guard.as_ref().ok().and_then(|database| schema::last_task(database).ok()).flatten();
        TaskIds::after(last.max(in_log))
    }

    /// After an I/O error: of the database, it is reopened; of the log, changes are refused until it can be
    /// written again, in another segment.
    fn recover(
        &mut self,
        jobs: &mut mpsc::Receiver<Job>,
        failed: impl Iterator<Item = Job>,
        lazy: Vec<LazyDelivery>,
        error: &GroupError,
    ) {
        let why = match error {
            GroupError::Database(error) => format!("{}: {error}", self.path.display()),
            GroupError::Log(error) => error.to_string(),
        };
        match error {
            GroupError::Database(_) => self.wait_for_check(),
            GroupError::Log(_) => self.shared.failing(Part::Log, &self.path, why.clone()),
        }
        // Of a group that failed in the database, nothing was written.
        let known = self.shared.write_failure().filter(|_| matches!(error, GroupError::Database(_)));
        for job in failed {
            job.refuse(match &known {
                Some(failure) => StoreError::Refused(failure.clone()),
                None => StoreError::Unavailable(why.clone()),
            });
        }
        for (_, reply) in lazy {
            let _ = reply.send(Err(StoreError::Unavailable(why.clone())));
        }
        if matches!(error, GroupError::Log(_)) {
            self.wait_for_log(jobs);
        }
    }

    fn wait_for_log(&mut self, jobs: &mut mpsc::Receiver<Job>) {
        while !has_free_space(&self.path) || !self.log_works() {
            // The writer's own thread: nothing else runs here.
            #[allow(clippy::disallowed_methods)]
            thread::sleep(RETRY_EVERY);
            self.shared.still_failing(&self.path);
            let Some(failure) = self.shared.write_failure() else { continue };
            while let Ok(job) = jobs.try_recv() {
                job.refuse(StoreError::Refused(failure.clone()));
            }
            for (_, reply) in self.shared.take_lazy() {
                let _ = reply.send(Err(StoreError::Refused(failure.clone())));
            }
            if jobs.is_closed() {
                return;
            }
        }
        self.shared.works(Part::Log, &self.path);
    }

    fn log_works(&mut self) -> bool {
        self.draft.clear();
        self.draft.nothing();
        self.commit().is_ok()
    }

    /// What is in the log goes into the database, so that the next start reads nothing back.
    fn close(mut self) {
        let mut lazy = self.shared.take_lazy();
        if !lazy.is_empty()
            && self.make(&mut std::iter::empty(), &mut lazy, &mut Vec::new(), &TaskIds::after(None)).is_err()
        {
            log::warn!(
                "the store was closed before it was noted what Kafka has: it is looked for in the topic"
            );
        }
        while self.shared.overlay().frozen.is_some() && self.shared.write_failure().is_none() {
            self.shared.wait_for_applied(RETRY_EVERY);
        }
        if self.shared.overlay().frozen.is_none() && self.position.seq > self.frozen.seq {
            self.freeze();
        }
        let Self { work, applier, .. } = self;
        drop(work);
        if applier.join().is_err() {
            log::error!("the store's second thread panicked; what was answered is on disk {}", Code::Panic);
        }
    }
}

/// With microseconds, as times are stored: a task is the same before and after it was read back.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
