//! The one thread that writes: takes what waits as one transaction, so that many requests share an fsync.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use redb::Database;
use tokio::sync::mpsc;

use super::apply::{Tables, TaskIds};
use super::{Job, OutboxState, Outcome, Shared, StoreError, schema};

/// Jobs in one transaction, at most.
const BATCH: usize = 1_024;
/// Time between two attempts to write again after a failure.
const RETRY_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>) -> Self {
        Self { path, shared }
    }

    /// Runs until all senders are gone and all jobs are done.
    pub(super) fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut ids = self.task_ids();
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            match self.commit(&batch, &ids) {
                Ok(outcomes) => {
                    for (job, outcome) in batch.drain(..).zip(outcomes) {
                        job.finish(outcome);
                    }
                }
                Err(error) => {
                    self.refuse(batch.drain(..), &error.to_string());
                    self.recover(&mut jobs, &error);
                    ids = self.task_ids();
                }
            }
        }
    }

    /// One transaction, on disk when this returns: an outcome for each job that asks for one.
    fn commit(&self, batch: &[Job], ids: &TaskIds) -> Result<Vec<Option<Outcome>>, redb::Error> {
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().map_err(|why| redb::Error::Corrupted(why.clone()))?;
        let write = schema::begin(database)?;
        let mut tables = Tables::open(&write, *self.shared.outbox.borrow())?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            outcomes.push(match job {
                Job::Mutate(mutation, _) => Some(tables.mutate(mutation, ids)?),
                Job::Delivered(delivered, _) => {
                    tables.delivered(delivered)?;
                    None
                }
            });
        }
        let outbox = tables.finish()?;
        write.commit()?;
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

    /// Opens the file anew, as redb demands after an I/O error, until a transaction succeeds. Reads work
    /// as soon as the file is open; changes are refused meanwhile.
    fn recover(&self, jobs: &mut mpsc::Receiver<Job>, error: &redb::Error) {
        let why = format!("{}: {error}", self.path.display());
        log::error!("the store cannot be written, changes are refused until it can: {why}");
        self.set_failure(Some(why.clone()));
        loop {
            self.replace(Err(why.clone()));
            if let Ok((database, outbox)) = schema::open(&self.path) {
                let works = probe(&database);
                self.publish(outbox);
                self.replace(Ok(database));
                if works {
                    break;
                }
            }
            // The writer's own thread: nothing else runs here.
            #[allow(clippy::disallowed_methods)]
            thread::sleep(RETRY_EVERY);
            let mut waiting = Vec::new();
            while let Ok(job) = jobs.try_recv() {
                waiting.push(job);
            }
            self.refuse(waiting.into_iter(), &why);
            if jobs.is_closed() {
                return;
            }
        }
        log::info!("the store can be written again");
        self.set_failure(None);
    }

    fn replace(&self, database: Result<Database, String>) {
        // Readers hold the lock for one read each; the old file is closed before the new one is opened.
        *self.shared.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    fn set_failure(&self, why: Option<String>) {
        *self.shared.write_failure.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn refuse(&self, jobs: impl Iterator<Item = Job>, why: &str) {
        let error = StoreError::Unavailable(why.to_owned());
        for job in jobs {
            job.refuse(error.clone());
        }
    }
}

/// Whether a transaction can be committed.
fn probe(database: &Database) -> bool {
    schema::begin(database)
        .and_then(|write| {
            write.open_table(schema::POSITIONS)?;
            Ok(write.commit()?)
        })
        .is_ok()
}

impl Job {
    fn finish(self, outcome: Option<Outcome>) {
        // A caller that went away is no error: the change stands.
        match (self, outcome) {
            (Self::Mutate(_, reply), Some(outcome)) => drop(reply.send(Ok(outcome))),
            (Self::Delivered(_, reply), _) => drop(reply.send(Ok(()))),
            (Self::Mutate(_, reply), None) => {
                drop(reply.send(Err(StoreError::Unavailable("no outcome".to_owned()))))
            }
        }
    }

    fn refuse(self, error: StoreError) {
        match self {
            Self::Mutate(_, reply) => drop(reply.send(Err(error))),
            Self::Delivered(_, reply) => drop(reply.send(Err(error))),
        }
    }
}
