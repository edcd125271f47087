//! One ownership of a partition, from its claim to its release: lease, progress and commits.
//!
//! # Invariants
//!
//! - *Events are handled only under a valid lease*: while a claim or commit that was sent less than a lease
//!   ago is acknowledged, by the monotonic clock, and no newer claim has been seen.
//! - *A lease is renewed only while work makes progress.* Each call into the handler is timed. Once one has
//!   not returned for a third of the lease, nothing is committed any more, so a call that hangs for longer
//!   than the lease loses the partition to a standby within two leases, and a shorter one loses nothing.
//!   Idle is progress. A call that returns an error and is tried again is progress as well: the partition
//!   is shown as blocked and stays owned, since a standby would meet the same Kafka. Calls to Kafka need
//!   no such watch: each has a timeout of its own.
//! - *A commit never exceeds the work done.* Only what [`Ownership::advance`] was given is committed.
//! - *What is given is done first*: the event in flight ends, and is made durable; then the partition is released to
//!   the instance that is to own it, by name, and the mirror forgets it.
//! - *What was done stays done*: where an ownership ends without its last commit, and this instance claims again before
//!   anybody else has committed, it goes on from there.
//! - *A fenced or stopped owner does not wait for what hangs*: the call is abandoned, and its work is not
//!   committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::abort::AbortOnDrop;
use super::activity::{Activity, Stage};
use super::committer::Committer;
use super::handler::Service;
use super::lease::Lease;
use super::owner_id::{OwnerId, Parts, Progress};
use super::release::{RELEASE_TIMEOUT, Unreleased, next_owner};
use super::shared::Shared;
use super::status::{HANG, Status};
use super::trouble::Trouble;
use crate::kafka::Position;
use crate::offsets::{Claim, Claimed, Commit, Slot};

/// Time for the call in progress when a stop is requested. It and the release fit into the 5 s of a stop.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for what fails to be done before the partition is given: this instance may never be able to.
const GIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two tries of it, at most.
const LAST_TRIES: Duration = Duration::from_millis(200);

/// Why handling has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    No,
    /// The partition is to be another instance's: the call in progress ends first, however long it takes. What fails to
    /// be made durable is tried again until then.
    Give(Instant),
    /// A stop was requested: the call in progress may end until then.
    Stop(Instant),
    /// Another instance has claimed, or the offsets topic was recreated.
    Fenced,
}

/// How an ownership ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was released, to that instance where one is named.
    Released(Option<Uuid>),
    /// It was to be given, and is to be kept now, or could not be given.
    Kept(Box<Unreleased>),
    /// It had been lost before.
    Lost,
}

/// The ownership of one partition.
pub(super) struct Ownership<S> {
    shared: Arc<Shared<S>>,
    slot: Slot,
    id: OwnerId,
    progress: watch::Sender<Progress>,
    lease: watch::Receiver<Instant>,
    halt: watch::Receiver<Halt>,
    activity: Arc<Activity>,
    /// Held while a renewal is on its way.
    renewing: Arc<AsyncMutex<()>>,
    /// How far each instance's own state goes, where they keep one.
    parts: Option<Parts>,
    _tasks: AbortOnDrop,
}

impl<S: Service> Ownership<S> {
    /// Starts to renew the lease. The incarnation is that in which the claim was read.
    pub(super) fn start(
        shared: &Arc<Shared<S>>,
        slot: &Slot,
        claim: &Claim,
        claimed: &Claimed,
        start: Position,
        parts: Option<Parts>,
    ) -> Self {
        let view = shared.offsets.view();
        let id = OwnerId {
            token: claimed.token,
            claim_id: claim.claim_id,
            instance_id: claim.instance_id,
            incarnation: view.borrow().lives,
        };
        let activity = Arc::<Activity>::default();
        let renewing = Arc::<AsyncMutex<()>>::default();
        let (progress, progress_seen) = watch::channel(Progress { position: start, handled: None });
        let (lease_sender, lease) = watch::channel(claimed.sent + shared.config.lease);
        let (halt_sender, halt) = watch::channel(Halt::No);
        let committer = Committer {
            shared: Arc::clone(shared),
            slot: slot.clone(),
            id: id.clone(),
            progress: progress_seen,
            parts: parts.clone(),
            lease: lease_sender,
            renewed: claimed.sent,
            activity: Arc::clone(&activity),
            renewing: Arc::clone(&renewing),
            hanging: Trouble::new(&shared.status, slot.partition, HANG),
            failing: Trouble::new(&shared.status, slot.partition, "commit"),
        };
        let halter = halt_in_time(Arc::clone(shared), slot.clone(), id.clone(), halt_sender);
        let tasks = vec![tokio::spawn(committer.run()).abort_handle(), tokio::spawn(halter).abort_handle()];
        Self {
            shared: Arc::clone(shared),
            slot: slot.clone(),
            id,
            progress,
            lease,
            halt,
            activity,
            renewing,
            parts,
            _tasks: AbortOnDrop(tasks),
        }
    }

    pub(super) fn id(&self) -> &OwnerId {
        &self.id
    }

    /// The lease, for what a handler begins later.
    pub(super) fn lease(&self) -> Lease {
        Lease::new(self.lease.clone())
    }

    /// Where calls are to be announced whose progress is watched.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Whether another instance, or a stop, ended this ownership.
    pub(super) fn is_halted(&self) -> bool {
        *self.halt.borrow() != Halt::No
    }

    /// Returns when it is.
    pub(super) async fn halted(&self) {
        let mut halt = self.halt.clone();
        // The sender ends with this value.
        let _ = halt.wait_for(|halt| *halt != Halt::No).await;
    }

    /// Waits before what failed is tried again, and returns whether it is to be: some of it may be done, so that a gift
    /// and a stop leave it some time, in which it is tried often.
    pub(super) async fn tries_again(&self, delay: Duration) -> bool {
        let mut halt = self.halt.clone();
        let now = *halt.borrow_and_update();
        let next = Instant::now() + if now == Halt::No { delay } else { delay.min(LAST_TRIES) };
        let may_wait = match now {
            Halt::No => true,
            Halt::Give(until) | Halt::Stop(until) => next < until,
            Halt::Fenced => false,
        };
        if !may_wait {
            return false;
        }
        // A halt that comes meanwhile has it tried at once.
        match timeout_at(next, halt.changed()).await {
            Ok(Ok(())) => *halt.borrow() != Halt::Fenced,
            Ok(Err(_)) => false,
            Err(_) => true,
        }
    }

    /// Waits, and returns whether a halt came meanwhile.
    pub(super) async fn halted_within(&self, delay: Duration) -> bool {
        timeout(delay, self.halted()).await.is_ok()
    }

    /// Whether no event may be handled now: a halt, or a lease that ran out. The process may have been
    /// stopped for an hour between any two events, and another instance may have handled the next.
    pub(super) fn must_pause(&self) -> bool {
        self.is_halted() || Instant::now() >= *self.lease.borrow()
    }

    /// Runs one call into the handler, whose progress is watched. `None` if it was abandoned: at once when
    /// fenced, after [`FINISH_TIMEOUT`] when stopping.
    pub(super) async fn call<T>(&self, what: &'static str, work: impl Future<Output = T>) -> Option<T> {
        let _in_progress = self.activity.begin(Stage::Handler, what);
        self.unless_abandoned(work).await
    }

    /// The same for work that has timeouts of its own.
    pub(super) async fn unless_abandoned<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = work => Some(output),
            () = self.abandoned() => None,
        }
    }

    async fn abandoned(&self) {
        let mut halt = self.halt.clone();
        let ends = halt.wait_for(|halt| matches!(halt, Halt::Stop(_) | Halt::Fenced)).await.map(|halt| *halt);
        if let Ok(Halt::Stop(until)) = ends {
            let fenced = halt.wait_for(|halt| *halt == Halt::Fenced);
            let _ = timeout_at(until, fenced).await;
        }
    }

    /// All below the position is done and durable: it may be committed. `has_handled`: an event was handled since.
    pub(super) fn advance(&self, position: Position, has_handled: bool) {
        self.progress.send_if_modified(|progress| {
            let handled = if has_handled { Some(position.offset) } else { progress.handled };
            let next = Progress { position, handled };
            std::mem::replace(progress, next) != next
        });
    }

    pub(super) fn position(&self) -> Position {
        self.progress.borrow().position
    }

    /// Whether no newer claim has been seen.
    pub(super) fn is_owner(&self) -> bool {
        self.id.owns(&self.shared.offsets.view().borrow(), &self.slot)
    }

    /// Returns at once while the lease is valid and this instance owns. When it has run out: waits for a
    /// renewal to be acknowledged, reads the topic to its end, and goes on if this instance still owns.
    /// `None` when not.
    pub(super) async fn lease_is_valid(&self) -> Option<()> {
        let is_valid = |until: &Instant| Instant::now() < *until;
        if is_valid(&self.lease.borrow()) {
            return self.is_owner().then_some(());
        }
        let slot = &self.slot;
        let mut expired = Trouble::new(&self.shared.status, slot.partition, "lease");
        expired.report(&format!(
            "the lease of {slot} ran out without a renewal: handling nothing until Kafka acknowledges one"
        ));
        let mut lease = self.lease.clone();
        let renewed = async {
            loop {
                lease.wait_for(is_valid).await.ok()?;
                if self.shared.offsets.catch_up().await.is_ok() && is_valid(&self.lease.borrow()) {
                    return Some(());
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            biased;
            () = self.halted() => None,
            renewed = renewed => renewed.filter(|()| self.is_owner()),
        }?;
        expired.over(&format!("the lease of {slot} is renewed, handling continues"));
        Some(())
    }

    /// All that was done, as a commit.
    pub(super) fn last_commit(&self) -> Commit {
        let progress = *self.progress.borrow();
        self.shared.commit(&self.slot, &self.id, progress, self.parts.as_ref())
    }

    /// Ends the ownership without a release: its last commit is still to be written.
    pub(super) async fn abandon(self) -> Unreleased {
        let commit = self.last_commit();
        let Self { id, renewing, _tasks, .. } = self;
        // A renewal that is on its way could land after a release and undo it: it is waited for, and none begins
        // after it.
        let _none_on_its_way = timeout(RELEASE_TIMEOUT / 2, renewing.lock()).await;
        drop(_tasks);
        Unreleased::new(id, commit)
    }

    /// Ends the ownership: commits for the last time if it is still this instance's, and is not to stay so.
    pub(super) async fn end(self) -> Ended {
        let was_to_be_given = matches!(*self.halt.borrow(), Halt::Give(_));
        let (shared, slot, id) = (Arc::clone(&self.shared), self.slot.clone(), self.id.clone());
        if shared.shutdown.is_requested() {
            shared.membership.left().await;
        }
        // A stop may have come since: then nothing is kept, whoever the gift was for.
        let is_given = was_to_be_given && !shared.shutdown.is_requested();
        let owned_and_to = {
            let view = shared.offsets.view();
            let view = view.borrow();
            let to = match is_given {
                true => shared.roster(&view, Instant::now()).target(slot.partition),
                false => next_owner(&shared, &view, &slot, &id),
            };
            id.owns(&view, &slot).then_some(to)
        };
        let to = match owned_and_to {
            None => {
                shared.acknowledged.end(slot.partition, id.term());
                return Ended::Lost;
            }
            Some(to) => to,
        };
        let is_kept = is_given && to.is_none_or(|to| to == id.instance_id);
        if to.is_some() && !is_kept {
            // From here on its position is another's to report.
            shared.acknowledged.end(slot.partition, id.term());
        }
        let until = Instant::now() + RELEASE_TIMEOUT;
        let unreleased = self.abandon().await;
        if is_given {
            // Given again only if who lives then says so.
            shared.membership.keep(slot.partition);
        }
        if is_kept {
            return Ended::Kept(Box::new(unreleased));
        }
        let offset = unreleased.offset();
        match unreleased.write(&shared, &slot, to, until).await {
            Ok(()) => {
                let Slot { group, topic, partition } = &slot;
                match to {
                    Some(to) => {
                        Status::count(&shared.status.stats().given, 1);
                        log::info!(
                            group, topic, partition, offset;
                            "released {slot} at offset {offset}, to instance {to}"
                        );
                    }
                    None => {
                        shared.acknowledged.set(*partition, id.term(), offset);
                        log::info!(group, topic, partition, offset; "released {slot} at offset {offset}");
                    }
                }
            }
            Err(error) if is_given => {
                log::warn!(
                    "could not give {slot} at offset {offset} to another instance, keeping it: {error}"
                );
                return Ended::Kept(Box::new(unreleased));
            }
            Err(error) => log::warn!(
                "could not release {slot} at offset {offset}, the next owner waits for the lease to end and repeats a little: {error}"
            ),
        }
        Ended::Released(to)
    }
}

async fn halt_in_time<S>(shared: Arc<Shared<S>>, slot: Slot, id: OwnerId, halt: watch::Sender<Halt>) {
    let mut view = shared.offsets.view();
    let mut gifts = shared.membership.gifts();
    let mut fenced = std::pin::pin!(view.wait_for(|view| !id.owns(view, &slot)));
    let given = gifts.wait_for(|gifts| gifts.contains_key(&slot.partition));
    tokio::select! {
        biased;
        _ = &mut fenced => {
            halt.send_replace(Halt::Fenced);
            return;
        }
        () = shared.shutdown.requested() => {}
        _ = given => {
            halt.send_replace(Halt::Give(Instant::now() + GIVE_TIMEOUT));
        }
    }
    if shared.shutdown.or(&mut fenced).await.is_none() {
        halt.send_replace(Halt::Stop(Instant::now() + FINISH_TIMEOUT));
        let _ = fenced.await;
    }
    halt.send_replace(Halt::Fenced);
}
