//! Moving an embedded store into PostgreSQL: `taskctl db import`.
//!
//! ```text
//! embedded store ──batches──> staging tables ──> mark the store ──> one transaction ──> mark it as done
//!  (closed, locked)            (task_events_import)                  into task_events
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `source` | the embedded store, a batch at a time |
//! | `staging` | the move in the database, and its staging tables |
//! | `batch` | rows of the staging tables |
//! | `finish` | the transaction that makes it the database's store; giving a move up |
//! | `error` | why a store is not moved |
//!
//! # Invariants
//!
//! 1. *All or nothing.* Whoever looks into the database sees none of the store's tasks, or all of them with the events
//!    that wait, their numbers and bytes, the answers under idempotency keys and the positions in the topic: one
//!    transaction, under locks, into tables that have to be empty.
//! 2. *One of both.* Before that transaction begins, the store is marked, on disk, and no API serves a marked store, nor
//!    does an API with a database start beside one that is not marked as done. The mark is taken away only where it is
//!    known that the transaction has not been committed and never will be.
//! 3. *Resumable.* A batch and the note how far it reaches are one statement. After a kill at any point the next run goes
//!    on: with the next batch, or with the transaction. Where it is not known whether that was committed, the database
//!    says so, and so it does of a move that was given up.
//! 4. *One state of the store.* What is staged belongs to a position of the store's log. Where the store has gone on since,
//!    because an API was started on it in between, staging begins anew.
//! 5. *Bounded memory*, whatever the store holds: one batch.
//! 6. *Nothing is left out silently.* A stored value that cannot be read ends the import before the store is marked.

mod batch;
mod error;
mod finish;
mod source;
mod staging;

use std::path::{Path, PathBuf};

use chrono::{SubsecRound, Utc};
use task_events::database::{self, DatabaseUrl, Session};
use task_events::operate::Progress;
use task_events::services;
use tokio::task::spawn_blocking;

use super::failure::StoreError;
use super::mark;
use super::moved::Moved;
pub use batch::Contents;
pub use error::ImportError;
use source::Source;
use staging::{Move, Part};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Look what would be done.
    Plan,
    /// Move the store, or finish that.
    Execute,
    /// Give up a move that is not finished.
    Cancel,
}

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
    /// What the store has, or had when it was moved. `None` where only the database knows, which was not asked.
    pub contents: Option<Contents>,
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
    let opened = {
        let dir = place.dir.to_owned();
        blocking(move || Source::open(&dir)).await?
    };
    match (opened, action) {
        (Err(StoreError::Moved { moved, .. }), Action::Plan | Action::Execute) if moved.is_done => {
            Ok(place.marked(moved, Outcome::MovedBefore))
        }
        (Err(StoreError::Moved { moved, .. }), Action::Plan) => Ok(place.marked(moved, Outcome::Unfinished)),
        (Err(StoreError::Moved { moved, .. }), Action::Execute) => {
            let session = connect(url).await?;
            place.finish(&session, moved).await
        }
        (Err(StoreError::Moved { moved, .. }), Action::Cancel) => {
            let session = connect(url).await?;
            finish::cancel(&session, &moved, &place.to).await?;
            place.mark(None).await?;
            Ok(place.report(None, Outcome::Cancelled))
        }
        (Err(error), _) => Err(error.into()),
        (Ok(source), action) => {
            let moved = place.stage(&source, url, action, progress).await;
            // The file is to be free, whatever happened.
            blocking(move || source.close()).await?;
            match moved? {
                Staged::Report(report) => Ok(report),
                Staged::All(session, id) => {
                    let moved =
                        Moved { id, to: place.to.clone(), at: Utc::now().trunc_subsecs(6), is_done: false };
                    place.mark(Some(moved.clone())).await?;
                    place.finish(&session, moved).await
                }
            }
        }
    }
}

/// How far the first half came.
enum Staged {
    Report(Report),
    /// All of the store is in the staging tables.
    All(Session, uuid::Uuid),
}

/// From where to where.
struct Place<'a> {
    dir: &'a Path,
    to: String,
}

impl Place<'_> {
    fn report(&self, contents: Option<Contents>, outcome: Outcome) -> Report {
        Report { store: self.dir.to_owned(), to: self.to.clone(), contents, outcome }
    }

    /// Of a store that is marked: the database is the one that the mark names, whichever address was given now.
    fn marked(&self, moved: Moved, outcome: Outcome) -> Report {
        Report { to: moved.to, ..self.report(None, outcome) }
    }

    async fn stage(
        &self,
        source: &Source,
        url: &DatabaseUrl,
        action: Action,
        progress: &mut dyn Progress,
    ) -> Result<Staged, ImportError> {
        let session = connect(url).await?;
        if action == Action::Cancel {
            staging::drop_of(&session, source.id()).await?;
            return Ok(Staged::Report(self.report(Some(source.contents().await?), Outcome::Cancelled)));
        }
        staging::check(&session, source.id()).await?;
        if action == Action::Plan {
            return Ok(Staged::Report(self.report(Some(source.contents().await?), Outcome::Planned)));
        }
        let mut to = staging::begin(&session, source.id(), source.position()).await?;
        stage_all(source, &mut to, &session, progress).await?;
        let id = to.id();
        Ok(Staged::All(session, id))
    }

    /// The second half, of a store that is marked.
    async fn finish(&self, session: &Session, moved: Moved) -> Result<Report, ImportError> {
        let dir = self.dir.to_owned();
        let meta = blocking(move || mark::read(&dir)).await??;
        let finished = finish::finish(session, &moved, &meta, &self.to).await;
        match finished {
            Ok(contents) => {
                self.mark(Some(Moved { is_done: true, ..moved })).await?;
                Ok(self.report(Some(contents), Outcome::Moved))
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

async fn stage_all(
    source: &Source,
    to: &mut Move,
    session: &Session,
    progress: &mut dyn Progress,
) -> Result<(), ImportError> {
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
    Ok(())
}

/// To a database whose schema is that of this program.
async fn connect(url: &DatabaseUrl) -> Result<Session, ImportError> {
    let session = database::connect(&url.endpoint().await?, None).await?;
    database::ensure(&session, false).await?;
    Ok(session)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImportError> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| StoreError::Unavailable(error.to_string()).into())
}
