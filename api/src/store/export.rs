//! Moving the tasks of a database into an embedded store: `taskctl db export`.
//!
//! ```text
//! PostgreSQL ──batches──> embedded store ──> the mark says all is there ──> COMMIT: the database is closed ──> no mark
//!  (one transaction)       (marked)
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `source` | the database, a batch at a time |
//! | `destination` | the embedded store that is built |
//! | `error` | why the tasks are not moved |
//!
//! # Invariants
//!
//! 1. *One state.* All is read in one transaction that has the tables closed from its beginning: no replica changes one in
//!    between, and the row that says where the tasks went comes with its commit.
//! 2. *One of both.* The embedded store is marked from its first moment, and no API serves a marked store. The mark is taken
//!    away only after the database is known to be closed: from its commit on no API serves it, and a replica that was
//!    paused meanwhile can change nothing there. Where it is not known, neither is served, and each says what to run.
//! 3. *Anew, not on.* A run that was cut off before the mark says that all is there has left nothing in the database; the next
//!    one removes what it left in the folder. A store that is complete is removed only on demand.
//! 4. *Nothing is left out silently.* What cannot be read ends the export, and so do fewer rows than were counted. Only
//!    answers that have expired stay behind.
//! 5. *Bounded memory*, whatever the database holds: one batch.
//! 6. *A look changes nothing*, and no folder is used that holds a store.

mod destination;
mod error;
mod source;

use std::path::{Path, PathBuf};

use chrono::{SubsecRound, Utc};
use task_events::database::departure::{self, Departure};
use task_events::database::{self, DatabaseUrl, Session, Trouble};
use task_events::operate::Progress;
use task_events::services;
use task_events::state_dir::StateDir;
use uuid::Uuid;

use super::failure::{StoreError, blocking};
use super::mark;
pub use super::moved::Action;
use super::moved::{Contents, Moved};
use super::postgres::turn::host;
use destination::Destination;
pub use error::ExportError;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It can be done; nothing was changed.
    Planned,
    /// A move has begun, and is to be finished or begun anew.
    Unfinished,
    /// The tasks are in the embedded store.
    Moved,
    /// The move was given up: the database is as it was.
    Cancelled,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The database, as far as it is no secret.
    pub from: String,
    /// Where the embedded store is, or is to be.
    pub store: PathBuf,
    /// What the database has, or had when its tasks were moved.
    pub contents: Contents,
    /// What became of it.
    pub outcome: Outcome,
}

/// Moves the tasks of the database into an embedded store below `root`.
pub async fn export(
    root: &Path,
    url: &DatabaseUrl,
    action: Action,
    progress: &mut dyn Progress,
) -> Result<Report, ExportError> {
    let place = Place { dir: root.join(services::API), from: url.place() };
    if action == Action::CancelLost {
        let session = connect(url).await?;
        reopen(&session, None).await?;
        return Ok(place.report(Contents::default(), Outcome::Cancelled));
    }
    let (root, dir) = (root.to_owned(), place.dir.clone());
    // Held to the end.
    let (_state_dir, unfinished) = blocking(move || {
        destination::refuse_stranger(&dir)?;
        // A look makes no folder.
        let is_locked = action != Action::Plan || dir.exists();
        let state_dir = is_locked.then(|| StateDir::open(&root, services::API)).transpose()?;
        let unfinished = destination::look(&dir)?;
        Ok::<_, ExportError>((state_dir, unfinished))
    })
    .await??;
    match (action, unfinished) {
        (Action::Plan, None) => place.plan(url).await,
        (Action::Plan, Some(moved)) => Ok(place.report(moved.contents, Outcome::Unfinished)),
        (Action::Execute, Some(moved)) if moved.is_done => place.finish(url, moved).await,
        (Action::Execute, _) => place.execute(url, progress).await,
        (_, Some(moved)) => place.cancel(url, moved).await,
        (_, None) => Err(ExportError::Refused(format!(
            "{} holds no move that is not finished: there is nothing to give up",
            place.dir.display()
        ))),
    }
}

/// From where to where.
struct Place {
    dir: PathBuf,
    from: String,
}

impl Place {
    fn report(&self, contents: Contents, outcome: Outcome) -> Report {
        Report { from: self.from.clone(), store: self.dir.clone(), contents, outcome }
    }

    async fn plan(&self, url: &DatabaseUrl) -> Result<Report, ExportError> {
        let session = connect(url).await?;
        check_present(&session).await?;
        source::begin(&session).await?;
        source::check_unserved(&session).await?;
        let contents = source::contents(&session).await?;
        source::commit(&session).await?;
        Ok(self.report(contents, Outcome::Planned))
    }

    async fn execute(&self, url: &DatabaseUrl, progress: &mut dyn Progress) -> Result<Report, ExportError> {
        let session = connect(url).await?;
        check_present(&session).await?;
        // What is not committed is undone with the connection.
        source::begin(&session).await?;
        source::close(&session).await?;
        let (id, contents) = self.copy(&session, progress).await?;
        let folder = self.dir.display().to_string();
        let departure = Departure { id, folder, host: host() };
        source::in_time(departure::record(&session, &departure)).await?;
        source::commit(&session).await?;
        self.serve().await?;
        Ok(self.report(contents, Outcome::Moved))
    }

    /// Has all of the database in a marked store whose mark says so.
    async fn copy(
        &self,
        session: &Session,
        progress: &mut dyn Progress,
    ) -> Result<(Uuid, Contents), ExportError> {
        let contents = source::contents(session).await?;
        let outbox = source::outbox(session).await?;
        let (id, at) = (Uuid::new_v4(), Utc::now().trunc_subsecs(6));
        let moved = Moved { id, to: self.from.clone(), at, contents, is_done: false, arrives: true };
        let dir = self.dir.clone();
        let mut store = blocking(move || {
            destination::clear(&dir)?;
            Destination::create(&dir, moved, outbox)
        })
        .await??;
        let mut copied = Contents::default();

        begin(progress, "tasks", contents.tasks);
        let mut after = None;
        loop {
            let tasks = source::tasks(session, after).await?;
            let (count, Some(last)) = (tasks.len() as u64, tasks.last().map(|task| task.id)) else { break };
            store = changed(store, move |store| store.add_tasks(tasks)).await?;
            (copied.tasks, after) = (copied.tasks + count, Some(last));
            progress.add(count);
        }
        begin(progress, "answers", contents.answers);
        let mut after = None;
        loop {
            let answers = source::answers(session, after).await?;
            let Some(last) = answers.last() else { break };
            let count = answers.len() as u64;
            after = Some((last.expires_at, last.key.clone().into_bytes()));
            store = changed(store, move |store| store.add_answers(answers)).await?;
            copied.answers += count;
            progress.add(count);
        }
        begin(progress, "events", contents.events);
        let mut after = None;
        loop {
            let events = source::events(session, after).await?;
            let Some(last) = events.last() else { break };
            let count = events.len() as u64;
            after = i64::try_from(last.seq).ok();
            store = changed(store, move |store| store.add_events(&events)).await?;
            copied.events += count;
            progress.add(count);
        }
        if copied != contents {
            return Err(ExportError::Refused(format!(
                "of {} tasks, {} answers and {} events {}, {} and {} were read: an index of the database is damaged; REINDEX SCHEMA task_events there, and run the export again",
                contents.tasks,
                contents.answers,
                contents.events,
                copied.tasks,
                copied.answers,
                copied.events
            )));
        }
        blocking(move || store.complete()).await??;
        Ok((id, contents))
    }

    /// Of a store that is complete: serves it if the database was closed for it.
    async fn finish(&self, url: &DatabaseUrl, moved: Moved) -> Result<Report, ExportError> {
        let session = connect(url).await?;
        // Behind a commit that is still under way.
        source::begin(&session).await?;
        let has_left = source::has_left(&session, moved.id).await?;
        source::commit(&session).await?;
        if !has_left {
            let (from, to, id, dir) = (&self.from, &moved.to, moved.id, self.dir.display());
            return Err(ExportError::Refused(format!(
                "the {from} knows nothing of the move {id} to {dir}, which began with the {to}: if this is another database, set DATABASE_URL to that one; if it is the same, the run before ended just before its last step: give it up with `taskctl db export --cancel`, and begin again"
            )));
        }
        self.serve().await?;
        Ok(self.report(moved.contents, Outcome::Moved))
    }

    /// Has the database served, and removes the store.
    async fn cancel(&self, url: &DatabaseUrl, moved: Moved) -> Result<Report, ExportError> {
        if moved.is_done {
            let session = connect(url).await?;
            reopen(&session, Some(moved.id)).await?;
        }
        let dir = self.dir.clone();
        blocking(move || destination::clear(&dir)).await??;
        Ok(self.report(moved.contents, Outcome::Cancelled))
    }

    /// Takes the mark away.
    async fn serve(&self) -> Result<(), ExportError> {
        let dir = self.dir.clone();
        Ok(blocking(move || mark::write(&dir, None)).await??)
    }
}

/// Has the database served again whose tasks were moved: by that move, or by any.
async fn reopen(session: &Session, id: Option<Uuid>) -> Result<(), ExportError> {
    source::begin(session).await?;
    let is_closed = match id {
        Some(id) => source::has_left(session, id).await?,
        None => true,
    };
    if is_closed {
        source::in_time(departure::reopen(session)).await?;
    }
    source::commit(session).await
}

/// To a database whose schema is that of this program, wherever its tasks are.
async fn connect(url: &DatabaseUrl) -> Result<Session, ExportError> {
    let session = database::connect(&url.endpoint().await?, None).await?;
    database::state(&session).await?.check()?;
    Ok(session)
}

/// Refuses a database whose tasks were moved before.
async fn check_present(session: &Session) -> Result<(), ExportError> {
    database::ensure(session, false).await.map_err(|error| match error.trouble() {
        Trouble::MovedAway => ExportError::MovedBefore(error),
        _ => error.into(),
    })
}

fn begin(progress: &mut dyn Progress, unit: &'static str, total: u64) {
    progress.begin("copying", unit);
    progress.add_total(total);
}

/// The store with that change made.
async fn changed(
    mut store: Destination,
    change: impl FnOnce(&mut Destination) -> Result<(), StoreError> + Send + 'static,
) -> Result<Destination, ExportError> {
    Ok(blocking(move || change(&mut store).map(|()| store)).await??)
}
