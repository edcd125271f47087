//! Keeps the relay's turn: claims it when it is wanted and free, renews it, and writes what its holder reports. While
//! it is held, [`puller`] fills the ledger.
//!
//! # Invariants
//!
//! 1. A turn is announced once the first events of each partition are in the ledger, as many as another holder may have
//!    in flight; or, where that takes long, without: the ledger then says of which partition more may come, and no lane
//!    takes what it has for all. They are read a page at a time, and the lease is renewed between.
//! 2. After any error, or answer that did not come, the turn is over, and what was held is void. The next one may be
//!    this process's own, with another term. Once no turn is wanted, what may be left of one is given back ([`handover`]).

use std::collections::BTreeMap;
use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use task_events::database::Session;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::super::delivery::{Delivered, PublishedTopic};
use super::super::failure::StoreError;
use super::handover::{self, OwnTerms, Wanted};
use super::health::Reminder;
use super::puller;
use super::shared::Shared;
use super::turn::{self, Deletion, Held, TurnError};

/// How often the lease is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Time for one pull before a turn is announced, well within a lease.
const BEGIN_PULL_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a standby looks whether the turn is free.
const CLAIM_EVERY: Duration = Duration::from_millis(250);
/// Reports that are written together.
const MAX_REPORTS: usize = 64;

/// What the relay reports.
#[derive(Debug)]
pub(super) enum Report {
    Delivered {
        delivered: Delivered,
        is_lazy: bool,
        /// That of the reporter.
        term: Option<Uuid>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    PublishTo(PublishedTopic, oneshot::Sender<Result<(), StoreError>>),
}

impl Report {
    fn reply(self, result: Result<(), StoreError>) {
        let (Self::Delivered { reply, .. } | Self::PublishTo(_, reply)) = self;
        let _ = reply.send(result);
    }
}

/// Ends with its value.
struct Task(JoinHandle<TurnError>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum End {
    /// Nobody publishes here any more.
    Unwanted,
    Lost(TurnError),
}

impl TurnError {
    /// How long another replica may take the turn before this one tries again.
    fn pause(&self) -> Duration {
        if self.is_unreadable() { turn::LEASE } else { CLAIM_EVERY }
    }

    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable)
    }
}

fn without_turn() -> StoreError {
    StoreError::Unavailable("the relay's turn is over: another replica publishes, or will".to_owned())
}

/// What is left of the turns of this process, between two of them.
#[derive(Debug, Default)]
struct Left {
    session: Option<Session>,
    /// Until the turn is known to be another's, or was given back.
    own: OwnTerms,
}

impl Left {
    async fn give_back(&mut self, shared: &Shared, wanted: &watch::Receiver<Wanted>) {
        let own = std::mem::take(&mut self.own);
        handover::give_back(shared, &mut self.session, own, wanted).await;
    }

    /// Something may still run on the connection.
    fn abandon_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.abandon();
        }
    }
}

/// Keeps the turn while it is wanted; ends when the store is dropped.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut reports: mpsc::Receiver<Report>,
    mut wanted: watch::Receiver<Wanted>,
) {
    tokio::select! {
        () = shared.open() => {}
        _ = until(&mut wanted, |_| false) => return,
    }
    let mut left = Left::default();
    keep(&shared, &mut reports, &mut wanted, &mut left).await;
    left.give_back(&shared, &wanted).await;
}

async fn keep(
    shared: &Arc<Shared>,
    reports: &mut mpsc::Receiver<Report>,
    wanted: &mut watch::Receiver<Wanted>,
    left: &mut Left,
) {
    let mut reminder = Reminder::default();
    loop {
        let mut pause = CLAIM_EVERY;
        let is_wanted = wanted.borrow().relays > 0;
        if !is_wanted {
            left.give_back(shared, wanted).await;
        }
        tokio::select! {
            is_open = until(wanted, |wanted| wanted.relays > 0) => if !is_open { return },
            report = reports.recv() => match report {
                Some(report) => {
                    report.reply(Err(without_turn()));
                    continue;
                }
                None => return,
            },
        }
        match begin(shared, left, wanted).await {
            Ok(Some(held)) => {
                reminder = Reminder::default();
                shared.leaves_turn.store(false, Ordering::Relaxed);
                let Some(session) = &left.session else { continue };
                let term = held.term.id;
                let end = hold(shared, session, held, reports, wanted).await;
                shared.turn.send_replace(None);
                shared.ledger().end();
                left.own.add(term);
                match end {
                    End::Unwanted => {
                        log::info!("this replica no longer publishes the outbox");
                        left.give_back(shared, wanted).await;
                        continue;
                    }
                    End::Lost(why) => {
                        shared.leaves_turn.store(why.is_unreadable(), Ordering::Relaxed);
                        log::warn!("the relay's turn is over: {why}");
                        if why.is_unreadable() {
                            handover::let_go(wanted).await;
                            left.give_back(shared, wanted).await;
                        }
                        pause = why.pause();
                    }
                }
                left.abandon_session();
            }
            Ok(None) => {
                reminder = Reminder::default();
                shared.leaves_turn.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                shared.leaves_turn.store(error.is_unreadable(), Ordering::Relaxed);
                if reminder.is_due(&error.to_string()) {
                    log::warn!("the relay's turn cannot be taken: {error}");
                }
                shared.ledger().end();
                pause = error.pause();
            }
        }
        wait(reports, pause).await;
    }
}

/// Returns when it holds of the number of relays that want the turn; `false` if the store is dropped.
async fn until(wanted: &mut watch::Receiver<Wanted>, holds: impl Fn(Wanted) -> bool) -> bool {
    wanted.wait_for(|wanted| holds(*wanted)).await.is_ok()
}

/// Waits for the next attempt, and refuses what is reported meanwhile.
async fn wait(reports: &mut mpsc::Receiver<Report>, pause: Duration) {
    let until = Instant::now() + pause;
    loop {
        tokio::select! {
            () = sleep_until(until) => return,
            report = reports.recv() => match report {
                Some(report) => report.reply(Err(without_turn())),
                None => return,
            },
        }
    }
}

/// Claims the turn, and reads what is to be looked for in the topic.
async fn begin(
    shared: &Shared,
    left: &mut Left,
    wanted: &mut watch::Receiver<Wanted>,
) -> Result<Option<Held>, TurnError> {
    let is_usable = |session: &Session| !session.is_closed() && shared.is_current(session);
    if !left.session.as_ref().is_some_and(is_usable) {
        left.session = None;
        tokio::select! {
            connected = shared.connect() => left.session = Some(connected?),
            // Nothing was claimed.
            _ = until(wanted, |wanted| wanted.relays == 0) => return Ok(None),
        }
    }
    let Some(session) = &left.session else { return Ok(None) };
    let term = Uuid::new_v4();
    let begun = claimed(shared, session, wanted, term).await;
    match &begun {
        Ok(Some(_)) => {}
        Ok(None) => left.own = OwnTerms::default(),
        Err(TurnError::Unreadable) => {
            left.own.add(term);
            left.give_back(shared, wanted).await;
        }
        Err(_) => {
            left.own.add(term);
            left.abandon_session();
        }
    }
    begun
}

async fn claimed(
    shared: &Shared,
    session: &Session,
    wanted: &watch::Receiver<Wanted>,
    term: Uuid,
) -> Result<Option<Held>, TurnError> {
    let Some((mut held, begin)) = turn::claim(session, shared.me, term).await? else { return Ok(None) };
    shared.ledger().begin(begin.topic, begin.positions);
    let mut renewed = Instant::now();
    // What is left is read afterwards: until then no lane takes what it has for all.
    while let (1.., true) = puller::pull(shared, session, &held.term, BEGIN_PULL_TIMEOUT).await? {
        if renewed.elapsed() >= RENEW_EVERY {
            handover::while_wanted(shared, session, wanted, held.renew(session)).await?;
            renewed = Instant::now();
        }
    }
    handover::while_wanted(shared, session, wanted, held.renew(session)).await?;
    Ok(Some(held))
}

async fn hold(
    shared: &Arc<Shared>,
    session: &Session,
    mut held: Held,
    reports: &mut mpsc::Receiver<Report>,
    wanted: &mut watch::Receiver<Wanted>,
) -> End {
    set_valid(shared, Some(held.valid_until));
    let last_seq = shared.ledger().last();
    shared.outbox.send_modify(|state| state.last_seq = last_seq);
    let mut pulling = Task(tokio::spawn(puller::run(Arc::clone(shared), held.term.clone())));
    shared.turn.send_replace(Some(held.term.id));
    log::info!("this replica publishes the outbox of the {}", shared.place);
    let mut renew_at = Instant::now() + RENEW_EVERY;
    let end = loop {
        let worked = tokio::select! {
            biased;
            _ = until(wanted, |wanted| wanted.relays == 0) => break End::Unwanted,
            () = sleep_until(renew_at) => {
                renew_at = Instant::now() + RENEW_EVERY;
                handover::while_wanted(shared, session, wanted, held.renew(session)).await
            }
            // It ends only where the turn is another's, or has to be.
            ended = &mut pulling.0 => Err(ended.unwrap_or(TurnError::Lost)),
            report = reports.recv() => match report {
                Some(report) => {
                    let mut all = vec![report];
                    while all.len() < MAX_REPORTS && let Ok(more) = reports.try_recv() {
                        all.push(more);
                    }
                    handover::while_wanted(shared, session, wanted, write(shared, session, &mut held, all)).await
                }
                None => break End::Unwanted,
            },
        };
        set_valid(shared, Some(held.valid_until));
        if let Err(error) = worked {
            break End::Lost(error);
        }
    };
    set_valid(shared, None);
    end
}

fn set_valid(shared: &Shared, until: Option<Instant>) {
    *shared.valid_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = until;
}

/// Writes reports, in their order: deliveries that follow each other as one.
async fn write(
    shared: &Shared,
    session: &Session,
    held: &mut Held,
    reports: Vec<Report>,
) -> Result<(), TurnError> {
    let (mut deliveries, mut result) = (Vec::new(), Ok(()));
    for report in reports {
        if result.is_err() {
            report.reply(Err(without_turn()));
            continue;
        }
        match report {
            Report::Delivered { .. } => deliveries.push(report),
            Report::PublishTo(topic, reply) => {
                result = deliver(shared, session, held, std::mem::take(&mut deliveries)).await;
                if result.is_ok() {
                    let is_another =
                        shared.ledger().topic().is_some_and(|before| topic.is_another_than(&before));
                    result = held.publish_to(session, topic, is_another).await;
                }
                if result.is_ok() {
                    shared.ledger().publish_to(topic);
                }
                drop(reply.send(result.as_ref().map_err(unavailable).copied()));
            }
        }
    }
    match result {
        Ok(()) => deliver(shared, session, held, deliveries).await,
        Err(error) => Err(error),
    }
}

fn unavailable(error: &TurnError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

async fn deliver(
    shared: &Shared,
    session: &Session,
    held: &mut Held,
    reports: Vec<Report>,
) -> Result<(), TurnError> {
    let (mut deletion, mut positions, mut is_lazy_all) = (Deletion::default(), BTreeMap::new(), true);
    {
        let ledger = shared.ledger();
        for report in &reports {
            let Report::Delivered { delivered, is_lazy, term, .. } = report else { continue };
            is_lazy_all &= is_lazy;
            if *term != Some(held.term.id) || !ledger.counts(delivered) {
                continue;
            }
            deletion.rows.extend(ledger.rows(delivered.seqs.iter().chain(&delivered.scattered)));
            if let Some(position) = delivered.position {
                positions.insert(delivered.partition, position);
            }
        }
    }
    deletion.positions = positions;
    let result = if deletion.rows.is_empty() && deletion.positions.is_empty() {
        Ok(())
    } else {
        held.delete(session, &deletion, is_lazy_all).await
    };
    let mut sent = 0;
    for report in reports {
        if let (Report::Delivered { delivered, term, .. }, Ok(())) = (&report, &result) {
            if *term != Some(held.term.id) {
                report.reply(Err(without_turn()));
                continue;
            }
            let mut ledger = shared.ledger();
            if ledger.counts(delivered) {
                sent += ledger.delivered(delivered);
            }
        }
        report.reply(result.as_ref().map_err(unavailable).copied());
    }
    if sent > 0 {
        shared.count_sent(sent);
        shared.outbox.send_modify(|state| state.waiting = state.waiting.saturating_sub(sent as u64));
        shared.wake.notify_one();
    }
    result
}
