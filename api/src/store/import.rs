//! Moving an embedded store into PostgreSQL: `taskctl db import`.
//!
//! ```text
//! embedded store ──batches──> staging tables ──> mark the store ──> one transaction ──> mark it as done
//!  (closed, locked)            (task_events_import)                  into task_events
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `glance` | a look at the embedded store that changes nothing in it |
//! | `source` | the embedded store, a batch at a time |
//! | `staging` | the move in the database, and its staging tables |
//! | `batch` | rows of the staging tables |
//! | `finish` | the transaction that makes it the database's store; giving a move up |
//! | `arrival` | whether a database has the tasks of a store that was moved |
//! | `error` | why a store is not moved |
//!
//! # Invariants
//!
//! 1. *All or nothing.* Whoever looks into the database sees none of the store's tasks, or all of them with the events
//!    that wait, their numbers and bytes, the answers under idempotency keys and the positions in the topic: one
//!    transaction, under locks, into tables that have to be empty.
//! 2. *One of both.* Before that transaction begins, the store is marked, on disk, and no API serves a marked store, nor
//!    does an API with a database start beside one that is not marked as done, or on
//!    another database than the one that has its tasks: that has the row of the move. The mark is taken away only where it
//!    is known that the transaction has not been committed and never will be, or where the operator says that the database
//!    is lost.
//! 3. *Resumable.* A batch and the note how far it reaches are one statement. After a kill at any point the next run goes
//!    on: with the next batch, or with the transaction. Where it is not known whether that was committed, the database
//!    says so, and so it does of a move that was given up.
//! 4. *One state of the store.* What is staged belongs to a position of the store's log. Where the store has gone on since,
//!    because an API was started on it in between, staging begins anew.
//! 5. *Bounded memory*, whatever the store holds: one batch.
//! 6. *Nothing is left out silently.* A stored value that cannot be read ends the import before the store is marked. The
//!    mark says how much was staged, and a database that has not all of it any more does not become the store.
//! 7. *A look changes nothing.* Nor does what the database refuses before it begins, or giving up a move: the embedded store
//!    is opened, and one of a former version brought up to date, only to be moved.

mod arrival;
mod batch;
mod error;
mod finish;
mod glance;
mod source;
mod staging;

use std::path::{Path, PathBuf};

use chrono::{SubsecRound, Utc};
use task_events::database::{self, DatabaseUrl, Session};
use task_events::operate::Progress;
use task_events::services;
use uuid::Uuid;

use super::failure::{StoreError, blocking};
use super::mark;
pub use super::moved::Action;
use super::moved::{Contents, Moved};
pub use arrival::check_arrival;
pub use error::ImportError;
use glance::Glance;
use source::Source;
pub(super) use staging::LOCK;
use staging::Part;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It can be done; nothing was changed.
    Planned,
    /// A move has begun, and is to be finished.
    Unfinished,
    /// The tasks are in the database.
    Moved,
    /// They were before.
    MovedBefore,
    /// The move was given up: the embedded store is as it was.
    Cancelled,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where the embedded store is.
    pub store: PathBuf,
    /// The database, as far as it is no secret.
    pub to: String,
    /// What the store has, or had when it was moved.
    pub contents: Contents,
    /// Changes that are in the log only, and not counted yet: the store was not closed in order.
    pub unapplied: u64,
    /// It is of a former version, and is brought up to date to be moved.
    pub is_former: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// Moves the store below `root` into the database, whose schema has to be up to date.
pub async fn import(
    root: &Path,
    url: &DatabaseUrl,
    action: Action,
    progress: &mut dyn Progress,
) -> Result<Report, ImportError> {
    let locked = root.to_owned();
    let state_dir = blocking(move || source::lock(&locked, services::API)).await??;
    let place = Place { dir: state_dir.path(), to: url.place() };
    let glance = {
        let dir = place.dir.to_owned();
        blocking(move || Glance::at(&dir)).await??
    };
    match glance.moved.clone() {
        Some(moved) if moved.arrives => Err(StoreError::Moved { folder: place.dir.to_owned(), moved }.into()),
        Some(moved) => place.go_on(url, action, moved).await,
        None => place.begin(url, action, &glance, progress).await,
    }
}

/// From where to where.
struct Place<'a> {
    dir: &'a Path,
    to: String,
}

impl Place<'_> {
    fn report(&self, contents: Contents, outcome: Outcome) -> Report {
        let (store, to) = (self.dir.to_owned(), self.to.clone());
        Report { store, to, contents, unapplied: 0, is_former: false, outcome }
    }

    /// Of a store that is not marked.
    async fn begin(
        &self,
        url: &DatabaseUrl,
        action: Action,
        glance: &Glance,
        progress: &mut dyn Progress,
    ) -> Result<Report, ImportError> {
        let session = connect(url).await?;
        let seen = |outcome| Report {
            unapplied: glance.unapplied,
            is_former: glance.id.is_none(),
            ..self.report(glance.contents, outcome)
        };
        if matches!(action, Action::Cancel | Action::CancelLost) {
            staging::drop_of(&session, glance.id).await?;
            return Ok(seen(Outcome::Cancelled));
        }
        staging::check(&session, glance.id).await?;
        if action == Action::Plan {
            return Ok(seen(Outcome::Planned));
        }
        let source = {
            let dir = self.dir.to_owned();
            blocking(move || Source::open(&dir)).await??
        };
        let staged = stage(&source, &session, progress).await;
        // The file is to be free, whatever happened.
        blocking(move || source.close()).await?;
        let (id, contents) = staged?;
        let (to, at) = (self.to.clone(), Utc::now().trunc_subsecs(6));
        let moved = Moved { id, to, at, contents, is_done: false, arrives: false };
        self.mark(Some(moved.clone())).await?;
        self.finish(&session, moved).await
    }

    /// Of a store that is marked.
    async fn go_on(&self, url: &DatabaseUrl, action: Action, moved: Moved) -> Result<Report, ImportError> {
        // The database is the one that the mark names, whichever address was given now.
        let named = |outcome| Report { to: moved.to.clone(), ..self.report(moved.contents, outcome) };
        match action {
            Action::Plan | Action::Execute if moved.is_done => {
                let session = database::connect(&url.endpoint().await?, None).await?;
                match arrival::has(&session, moved.id).await? {
                    true => Ok(named(Outcome::MovedBefore)),
                    false => Err(ImportError::Refused(arrival::missing(&self.to, self.dir, &moved))),
                }
            }
            Action::Plan => Ok(named(Outcome::Unfinished)),
            Action::Execute => {
                let session = connect(url).await?;
                self.finish(&session, moved).await
            }
            Action::Cancel | Action::CancelLost => {
                let session = connect(url).await?;
                // It had confirmed that it has all: this one is another, or has stepped back.
                if moved.is_done && action == Action::Cancel && !arrival::has(&session, moved.id).await? {
                    return Err(ImportError::Refused(arrival::missing(&self.to, self.dir, &moved)));
                }
                finish::cancel(&session, &moved, &self.to, action == Action::CancelLost).await?;
                self.mark(None).await?;
                Ok(self.report(moved.contents, Outcome::Cancelled))
            }
        }
    }

    /// The second half, of a store that is marked.
    async fn finish(&self, session: &Session, moved: Moved) -> Result<Report, ImportError> {
        let dir = self.dir.to_owned();
        let meta = blocking(move || mark::read(&dir)).await??;
        let finished = finish::finish(session, &moved, &meta, &self.to).await;
        match finished {
            Ok(()) => {
                let contents = moved.contents;
                self.mark(Some(Moved { is_done: true, ..moved })).await?;
                Ok(self.report(contents, Outcome::Moved))
            }
            Err(finish::Failure::NeverCommitted(error)) => {
                self.mark(None).await?;
                Err(error)
            }
            Err(finish::Failure::Unfinished(error)) => Err(error),
        }
    }

    async fn mark(&self, moved: Option<Moved>) -> Result<(), ImportError> {
        let dir = self.dir.to_owned();
        Ok(blocking(move || mark::write(&dir, moved)).await??)
    }
}

/// Has all of the store in the staging tables. Returns the move, and how much that is.
async fn stage(
    source: &Source,
    session: &Session,
    progress: &mut dyn Progress,
) -> Result<(Uuid, Contents), ImportError> {
    let mut to = staging::begin(session, source.id(), source.position()).await?;
    let contents = source.contents().await?;
    let parts = [
        (Part::Tasks, "tasks", contents.tasks),
        (Part::FormerAnswers, "answers of a former version", contents.former_answers),
        (Part::Answers, "answers", contents.answers),
        (Part::Events, "events", contents.events),
    ];
    for (part, unit, total) in parts {
        progress.begin("staging", unit);
        progress.add_total(total);
        progress.add(to.count(part));
        while let Some(batch) = source.batch(part, to.last(part)).await? {
            let count = to.add(session, part, &batch).await?;
            progress.add(count);
        }
    }
    Ok((to.id(), to.contents()))
}

/// To a database whose schema is that of this program.
async fn connect(url: &DatabaseUrl) -> Result<Session, ImportError> {
    let session = database::connect(&url.endpoint().await?, None).await?;
    database::ensure(&session, false).await?;
    Ok(session)
}
