//! A writer: takes what waits as one group and commits it as one transaction. There are a few, each with a connection
//! of its own, and all take from one queue.
//!
//! # Invariants
//!
//! 1. *Answered after COMMIT.* A change is answered as made when every statement of its group and its COMMIT have
//!    succeeded.
//! 2. *No doubt is guessed away.* A group whose commit has no answer is looked up by its row, on another connection; that
//!    row is written there if it is missing, so that what may still run cannot commit later. Only then the group is
//!    tried again, or answered as made. Where that cannot be learned in time, the answer says so.
//!    A commit that waits for a standby is not cancelled: then it would be visible without it.
//! 3. *Bounded.* A group ends within [`GROUP_TIMEOUT`], whatever the database does.
//! 4. *One change, one failure.* A change that the database refuses fails alone.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{SubsecRound, Utc};
use task_events::backoff::Backoff;
use task_events::database::{DatabaseError, Session, Trouble};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use super::super::failure::{StoreError, WriteFailure};
use super::super::job::MutateResult;
use super::super::mutation::{Mutation, Outcome};
use super::group::{Decision, Draft, Known};
use super::pace::{FEW, FILL_TIME};
use super::shared::Shared;
use super::statements;
use crate::reply::{Group, Reply};

/// Changes of one transaction.
const MAX_GROUP: usize = 1_000;
/// Time for one flight: longer than the server gives a statement.
const FLIGHT_TIMEOUT: Duration = Duration::from_secs(6);
/// Time to call the relay of another replica: it looks by itself before long, and the next group waits behind the call.
const CALL_TIMEOUT: Duration = Duration::from_millis(100);
/// Time for a group, from its oldest change on: below what a request waits.
const GROUP_TIMEOUT: Duration = Duration::from_millis(9_500);
/// A change that has waited for less is not late.
const FRESH: Duration = Duration::from_secs(3);
/// Time for a group of late ones.
const DOUBT_TIMEOUT: Duration = Duration::from_secs(3);
/// Before a task that another replica was changing is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A change that waits for a writer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) mutation: Box<Mutation>,
    pub(super) reply: Reply<MutateResult>,
    pub(super) since: Instant,
}

pub(super) type Queue = Arc<Mutex<mpsc::Receiver<Waiting>>>;

struct Writer {
    shared: Arc<Shared>,
    session: Option<Session>,
    /// The relay of another replica is to be called then, unless that has happened since the group before was committed.
    call: Option<Instant>,
}

/// A group that was not committed, or may have been.
struct Failed {
    error: DatabaseError,
    /// It may have been: under that id.
    in_doubt: Option<(Uuid, Vec<Decision>)>,
}

impl From<DatabaseError> for Failed {
    fn from(error: DatabaseError) -> Self {
        Self { error, in_doubt: None }
    }
}

/// Commits what comes until the queue is closed and empty.
pub(super) async fn run(shared: Arc<Shared>, queue: Queue) {
    let mut writer = Writer { shared: Arc::clone(&shared), session: None, call: None };
    let mut later = Vec::new();
    loop {
        let mut group = mem::take(&mut later);
        if group.is_empty() {
            match writer.take(&queue, &mut group).await {
                Some(1..) => {}
                Some(0) => return writer.call().await,
                None => {
                    writer.call().await;
                    continue;
                }
            }
        } else {
            sleep(BUSY_PAUSE).await;
            if let Ok(mut queue) = queue.try_lock() {
                while group.len() < MAX_GROUP
                    && let Ok(waiting) = queue.try_recv()
                {
                    group.push(waiting);
                }
            }
        }
        let flying = shared.flying.begin();
        later = writer.commit(group).await;
        drop(flying);
    }
}

impl Writer {
    /// Takes the next group: how many changes, 0 at the end; `None` if the relay is to be called first.
    async fn take(&self, queue: &Queue, group: &mut Vec<Waiting>) -> Option<usize> {
        let filled = async {
            let mut queue = queue.lock().await;
            queue.recv_many(group, MAX_GROUP).await;
            let until = Instant::now() + FILL_TIME;
            while (1..FEW).contains(&group.len()) {
                let left = MAX_GROUP - group.len();
                tokio::select! {
                    biased;
                    more = queue.recv_many(group, left) => if more == 0 { break },
                    () = self.shared.flying.none() => break,
                    () = sleep_until(until) => break,
                }
            }
        };
        let is_due = match self.call {
            None => {
                filled.await;
                false
            }
            // What was taken stays in the group.
            Some(at) => timeout_at(at, filled).await.is_err(),
        };
        (!is_due || !group.is_empty()).then_some(group.len())
    }

    /// Calls the relay, if that is owed. Where it fails, the relay looks by itself before long; the connection is not used
    /// again.
    async fn call(&mut self) {
        if self.call.take().is_none() {
            return;
        }
        if self.shared.has_turn() {
            self.shared.wake.notify_one();
        } else if let Some(session) = &self.session {
            self.shared.calls.made();
            let called = timeout(CALL_TIMEOUT, statements::call(session)).await;
            if !matches!(called, Ok(Ok(())))
                && let Some(session) = self.session.take()
            {
                session.abandon();
            }
        }
    }

    /// Commits a group and answers it. Returns the changes that have to wait for other replicas.
    async fn commit(&mut self, group: Vec<Waiting>) -> Vec<Waiting> {
        // Those that have waited for others' locks are no reason to refuse the others.
        let fresh = group.iter().map(|waiting| waiting.since).filter(|since| since.elapsed() < FRESH).min();
        let deadline = fresh.map_or(Instant::now() + DOUBT_TIMEOUT, |oldest| oldest + GROUP_TIMEOUT);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        loop {
            let Failed { error, in_doubt } = match self.attempt(&group).await {
                Ok(decisions) => {
                    self.shared.health.works();
                    return answer(group, decisions);
                }
                Err(failed) => failed,
            };
            if error.ends_session()
                && let Some(session) = self.session.take()
                && in_doubt.is_none()
            {
                // A commit is never cancelled: one that waits for a standby would end without it, and be seen.
                session.abandon();
            }
            if let Some((id, decisions)) = in_doubt {
                match self.was_committed(id, deadline).await {
                    Some(true) => return answer(group, decisions),
                    Some(false) => {}
                    None => {
                        refuse(group, &StoreError::Unavailable(error.to_string()));
                        return Vec::new();
                    }
                }
            }
            match error.trouble() {
                Trouble::Conflict => {}
                Trouble::Connection | Trouble::Crowded | Trouble::ReadOnly | Trouble::Timeout => {
                    self.shared.health.failed(&self.shared.place, &error);
                }
                Trouble::Full | Trouble::Schema => {
                    self.shared.health.failed(&self.shared.place, &error);
                    return self.refused(group, &error);
                }
                Trouble::Statement | Trouble::Address | Trouble::MovedAway if group.len() > 1 => {
                    return self.one_by_one(group).await;
                }
                Trouble::Statement | Trouble::Address | Trouble::MovedAway => {
                    log::warn!("a change was refused by the {}: {error}", self.shared.place);
                    return self.refused(group, &error);
                }
            }
            if Instant::now() >= deadline || self.shared.health.refusal().is_some() {
                return self.refused(group, &error);
            }
            sleep(backoff.next_delay()).await;
        }
    }

    fn refused(&self, group: Vec<Waiting>, error: &DatabaseError) -> Vec<Waiting> {
        refuse(group, &StoreError::Refused(WriteFailure::of_database(&self.shared.place, error)));
        Vec::new()
    }

    async fn one_by_one(&mut self, group: Vec<Waiting>) -> Vec<Waiting> {
        let mut later = Vec::new();
        for waiting in group {
            later.extend(Box::pin(self.commit(vec![waiting])).await);
        }
        later
    }

    async fn attempt(&mut self, group: &[Waiting]) -> Result<Vec<Decision>, Failed> {
        let session = match &self.session {
            Some(session) if !session.is_closed() && self.shared.is_current(session) => session,
            _ => self.session.insert(self.shared.connect().await?),
        };
        let mutations: Vec<&Mutation> = group.iter().map(|waiting| &*waiting.mutation).collect();
        let has_locks = mutations.iter().any(|it| it.change.task().is_some() || it.idempotency.is_some());
        let known = if has_locks {
            match flight("lock", statements::lock(session, &mutations)).await {
                Ok(known) => known,
                Err(error) => return Err(rolled_back(session, error).await.into()),
            }
        } else {
            Known::default()
        };
        let mut draft = Draft::new(known);
        let decisions = self.shared.decide(&mut draft, &mutations);
        if draft.is_empty() {
            flight("end", async { Ok(session.batch_execute("ROLLBACK").await?) }).await?;
            return Ok(decisions);
        }
        let (id, begun) = (Uuid::now_v7(), Instant::now());
        let is_ours = self.shared.has_turn();
        let calls = !is_ours && {
            self.call = self.shared.calls.due(draft.events.len());
            self.call.is_none()
        };
        match flight("commit", statements::write(session, id, &draft, has_locks, calls)).await {
            Ok(()) => {
                self.shared.flights.record(begun.elapsed());
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                if is_ours {
                    self.shared.wake.notify_one();
                }
                Ok(decisions)
            }
            // The server may have committed before the connection ended.
            Err(error) if error.ends_session() && error.trouble() != Trouble::ReadOnly => {
                Err(Failed { error, in_doubt: Some((id, decisions)) })
            }
            Err(error) if has_locks => Err(rolled_back(session, error).await.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a group was committed; if not, it never will be. `None` where that cannot be learned in time.
    async fn was_committed(&mut self, id: Uuid, deadline: Instant) -> Option<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        loop {
            let asked = async {
                let session = self.shared.connect().await?;
                let found = statements::was_committed(&session, id).await?;
                Ok::<_, DatabaseError>((session, found))
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, asked).await {
                Ok(Ok((session, found))) => {
                    self.session = Some(session);
                    return found;
                }
                Ok(Err(error)) => self.shared.health.failed(&self.shared.place, &error),
                Err(_) => return None,
            }
            sleep(backoff.next_delay()).await;
        }
    }
}

impl Shared {
    fn decide(&self, draft: &mut Draft, mutations: &[&Mutation]) -> Vec<Decision> {
        // With microseconds, as times are stored.
        let (format, now) = (self.event_format(), Utc::now().trunc_subsecs(6));
        let ids = self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        mutations.iter().map(|mutation| draft.decide(mutation, &ids, format, now)).collect()
    }
}

async fn flight<T>(
    what: &str,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    timeout(FLIGHT_TIMEOUT, work).await.unwrap_or_else(|_| Err(DatabaseError::timeout(what)))
}

/// Ends a transaction that failed, so that the connection can be used again.
async fn rolled_back(session: &Session, error: DatabaseError) -> DatabaseError {
    if error.ends_session() {
        return error;
    }
    match flight("roll back", async { Ok(session.batch_execute("ROLLBACK").await?) }).await {
        Ok(()) => error,
        Err(lost) => lost,
    }
}

/// Answers a group that is committed. Returns the changes that have to be tried again.
fn answer(group: Vec<Waiting>, decisions: Vec<Decision>) -> Vec<Waiting> {
    let mut replies = Group::<Result<Outcome, StoreError>>::default();
    let mut later = Vec::new();
    for (waiting, decision) in group.into_iter().zip(decisions) {
        match decision {
            Decision::Answer(answer) => replies.send(waiting.reply, answer),
            Decision::Later(_) if waiting.since.elapsed() < GROUP_TIMEOUT => later.push(waiting),
            Decision::Later(otherwise) => replies.send(waiting.reply, otherwise),
        }
    }
    later
}

fn refuse(group: Vec<Waiting>, error: &StoreError) {
    let mut replies = Group::default();
    for waiting in group {
        replies.send(waiting.reply, Err(error.clone()));
    }
}
