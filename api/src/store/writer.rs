//! The one thread that writes: takes what waits as one transaction, so that many requests share an fsync.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};
use task_events::disk::{Disk, FileIdentity};
use tokio::sync::mpsc;

use crate::reply::Group;

use super::apply::{ChangeError, Tables, TaskIds};
use super::failure::{NEEDED_MIB, free_mib};
use super::{Job, MutateResult, OutboxState, Outcome, Shared, StoreError, Unreadable, WriteFailure, schema};

/// Jobs in one transaction, at most.
const BATCH: usize = 1_024;
/// Time between two attempts to write again after a failure.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often it is logged that changes are still refused.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// What became of a change whose transaction was committed.
type MutationResult = Result<Outcome, Unreadable>;

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    shared: Arc<Shared>,
    /// The file that is open; `None` where the disk did not say.
    file: Option<FileIdentity>,
}

impl Writer {
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, shared: Arc<Shared>) -> Self {
        let file = disk.identity(&path).ok();
        Self { disk, path, shared, file }
    }

    /// Runs until all senders are gone and all jobs are done.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut ids = self.task_ids();
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.set_writing_since(Some(Instant::now()));
            self.refuse_if_misplaced(&mut batch);
            let committed = self.commit(&batch, &ids);
            self.set_writing_since(None);
            match committed {
                Ok(outcomes) => {
                    let mut replies = Group::default();
                    for (job, outcome) in batch.drain(..).zip(outcomes) {
                        if let Some(Err(unreadable)) = &outcome {
                            self.shared.report(unreadable);
                        }
                        job.finish(outcome, &mut replies);
                    }
                }
                Err(error) => {
                    self.recover(&mut jobs, &mut batch, &error);
                    ids = self.task_ids();
                }
            }
        }
    }

    /// Takes the changes out of the batch while the file is not in its place. What was delivered to Kafka is
    /// still noted in it: the events in it are not lost, too.
    fn refuse_if_misplaced(&self, batch: &mut Vec<Job>) {
        self.shared.is_looked_for.store(false, Ordering::Relaxed);
        let is_in_place = match self.disk.identity(&self.path) {
            Ok(file) => self.file.is_none_or(|own| own == file),
            // What the disk does not say, the transaction shows.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        let failure = (!is_in_place).then(|| WriteFailure::misplaced(&self.path));
        let before = {
            let mut misplaced = self.shared.misplaced.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *misplaced, failure.clone())
        };
        match (&before, &failure) {
            (None, Some(failure)) => log::error!("{failure}"),
            (Some(_), None) => log::info!("{} is back: changes are taken again", self.path.display()),
            _ => {}
        }
        if let Some(failure) = failure {
            let is_change = |job: &mut Job| matches!(job, Job::Mutate(..));
            for job in batch.extract_if(.., is_change) {
                job.refuse(StoreError::Refused(failure.clone()));
            }
        }
        batch.retain(|job| !matches!(job, Job::Look));
    }

    /// One transaction, on disk when this returns: an outcome for each job that asks for one.
    fn commit(&self, batch: &[Job], ids: &TaskIds) -> Result<Vec<Option<MutationResult>>, redb::Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().map_err(|why| redb::Error::Corrupted(why.clone()))?;
        let write = schema::begin(database)?;
        let mut tables = Tables::open(&write, *self.shared.outbox.borrow())?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            outcomes.push(match job {
                Job::Mutate(mutation, _) => match tables.mutate(mutation, ids, now()) {
                    Ok(outcome) => Some(Ok(outcome)),
                    Err(ChangeError::Unreadable(unreadable)) => Some(Err(unreadable)),
                    Err(ChangeError::Transaction(error)) => return Err(error),
                },
                Job::Delivered(delivered, _) => {
                    tables.delivered(delivered)?;
                    None
                }
                Job::PublishTo(topic, _) => {
                    tables.publish_to(*topic)?;
                    None
                }
                Job::Check(_) | Job::Look => None,
            });
        }
        let outbox = tables.finish()?;
        write.commit()?;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.publish(outbox);
        Ok(outcomes)
    }

    fn publish(&self, outbox: OutboxState) {
        self.shared.outbox.send_if_modified(|state| std::mem::replace(state, outbox) != outbox);
    }

    fn task_ids(&self) -> TaskIds {
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let last = guard.as_ref().ok().and_then(|database| schema::last_task(database).ok()).flatten();
        TaskIds::after(last)
    }

    /// Opens the file anew, as redb demands after an I/O error, and waits until a transaction succeeds. Reads
    /// work as soon as the file is open; changes are refused meanwhile.
    fn recover(&mut self, jobs: &mut mpsc::Receiver<Job>, failed: &mut Vec<Job>, error: &redb::Error) {
        let why = format!("{}: {error}", self.path.display());
        let (began, mut reminded) = (Instant::now(), Instant::now());
        log::error!("the store cannot be written: {}", self.refuse_changes(&why));
        let mut open = self.reopen(&why);
        // Only now: who asked for a check reads again at once.
        for job in failed.drain(..) {
            job.refuse(StoreError::Unavailable(why.clone()));
        }
        loop {
            open = open || self.reopen(&why);
            if open && has_room(&self.path) {
                if self.works() {
                    break;
                }
                // Reads need it open again, too.
                open = self.reopen(&why);
            }
            // The writer's own thread: nothing else runs here.
            #[allow(clippy::disallowed_methods)]
            thread::sleep(RETRY_EVERY);
            let failure = self.refuse_changes(&why);
            if reminded.elapsed() >= REMIND_EVERY {
                log::warn!("the store cannot be written since {} s: {failure}", began.elapsed().as_secs());
                reminded = Instant::now();
            }
            while let Ok(job) = jobs.try_recv() {
                job.refuse(StoreError::Refused(failure.clone()));
            }
            if jobs.is_closed() {
                return;
            }
        }
        *self.shared.write_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let free = free_mib(&self.path).map_or(String::new(), |free| format!(", {free} MiB are free"));
        log::info!("the store can be written again after {:.1} s{free}", began.elapsed().as_secs_f64());
    }

    /// Closes the file and opens it again. Readers hold the lock for one read each; those that come
    /// meanwhile wait, rather than to find it closed.
    fn reopen(&mut self, why: &str) -> bool {
        let mut database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = Err(why.to_owned());
        let Ok((reopened, outbox)) = schema::reopen(&*self.disk, &self.path) else { return false };
        *database = Ok(reopened);
        self.file = self.disk.identity(&self.path).ok();
        self.publish(outbox);
        true
    }

    /// Whether a transaction can be committed.
    fn works(&self) -> bool {
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().is_ok_and(|database| schema::touch(database).is_ok())
    }

    /// From now on changes are refused, with the free space as it is now.
    fn refuse_changes(&self, why: &str) -> WriteFailure {
        let failure = WriteFailure::new(why, &self.path);
        *self.shared.write_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
        failure
    }

    fn set_writing_since(&self, since: Option<Instant>) {
        *self.shared.writing_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// With microseconds, as times are stored: a task is the same before and after it was read back.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Whether there is room for a batch beside the file. Asks by writing: quotas and limits count, too.
fn has_room(path: &Path) -> bool {
    let scratch = path.with_extension("room");
    let fill = || -> io::Result<()> {
        let mut file = File::create(&scratch)?;
        let chunk = vec![0; 1 << 20];
        for _ in 0..NEEDED_MIB {
            file.write_all(&chunk)?;
        }
        file.sync_data()
    };
    let filled = fill().is_ok();
    let removed = fs::remove_file(&scratch).is_ok();
    filled && removed
}

impl Job {
    fn finish(self, outcome: Option<MutationResult>, replies: &mut Group<MutateResult>) {
        // A caller that went away is no error: the change stands.
        match (self, outcome) {
            (Self::Mutate(_, reply), Some(outcome)) => replies.send(reply, outcome.map_err(StoreError::from)),
            (Self::Delivered(_, reply) | Self::PublishTo(_, reply) | Self::Check(reply), _) => {
                drop(reply.send(Ok(())));
            }
            (Self::Mutate(_, reply), None) => {
                replies.send(reply, Err(StoreError::Unavailable("no outcome".to_owned())));
            }
            (Self::Look, _) => {}
        }
    }

    fn refuse(self, error: StoreError) {
        match self {
            Self::Mutate(_, reply) => reply.send(Err(error)),
            Self::Delivered(_, reply) | Self::PublishTo(_, reply) | Self::Check(reply) => {
                drop(reply.send(Err(error)));
            }
            Self::Look => {}
        }
    }
}
