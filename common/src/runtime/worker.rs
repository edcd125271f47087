//! One partition of one group: waits as standby, claims, and handles events as owner.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::claims::{OwnClaims, Sight, Verdict};
use super::handler::{Handler, OwnPosition, Service};
use super::lost_part::LostPart;
use super::opening::{Obstacle, log_start, open};
use super::own_part::{Commits, commits, own_part};
use super::owner::Owner;
use super::owner_id::{OwnerId, Parts};
use super::ownership::{Ended, Ownership};
use super::release::Unreleased;
use super::shared::Shared;
use super::start::{Start, start};
use super::status::{Role, Status};
use super::trouble::Trouble;
use super::twin::take_new_id;
use crate::backoff::Backoff;
use crate::kafka::Position;
use crate::offsets::roster::named_until;
use crate::offsets::{Claim, Claimed, DoneBy, Slot};

/// What was read this long ago is as good as now: a claim takes as long to be written.
const FRESH: Duration = Duration::from_millis(100);
/// Time for a claim on its way when a stop is requested. It and the release fit into the 5 s of a stop.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Instances that start together know little of each other, and may claim what all of them see to be free. The last one
/// keeps it: for so long the others handle nothing that it would repeat.
const RACE: Duration = Duration::from_millis(250);
/// An ownership that was shorter than this is followed by a pause, whatever ended it.
const SHORT: Duration = Duration::from_secs(1);

/// Runs one partition until a stop is requested.
pub(super) async fn run<S: Service>(shared: Arc<Shared<S>>, partition: i32) {
    let slot = Slot { group: shared.config.group.clone(), topic: shared.config.topic.clone(), partition };
    let shutdown = shared.shutdown.clone();
    let mut blocked = Trouble::new(&shared.status, partition, "claim");
    let mut worker = Worker {
        shared,
        slot,
        own: OwnClaims::default(),
        reached: None,
        seen: None,
        stood_by_in: None,
        lost_part: LostPart::default(),
        unreleased: None,
        may_own: false,
    };
    worker.set_role(Role::Starting);
    if shutdown.or(worker.shared.membership.joined()).await.is_none() {
        return;
    }
    work(&mut worker, &mut blocked).await;
    if let Some(unreleased) = worker.unreleased().await {
        unreleased.release(&worker.shared, &worker.slot).await;
    }
}

/// Claims and owns, until a stop is requested.
async fn work<S: Service>(worker: &mut Worker<S>, blocked: &mut Trouble) {
    let shutdown = worker.shared.shutdown.clone();
    let mut backoff = Backoff::for_kafka();
    while !shutdown.is_requested() {
        let ready = match shutdown.or(worker.ready_when_free(blocked)).await {
            None => return,
            Some(ready) => ready,
        };
        if shutdown.is_requested() {
            return;
        }
        let claimed = match ready {
            // A claim that was sent may land: a stop waits for it, so that it is released.
            Ok(ready) => match shutdown.or_after(CLAIM_TIMEOUT, worker.claim(ready)).await {
                None => {
                    log::debug!("no answer to the claim of {}", worker.slot);
                    return;
                }
                Some(claimed) => claimed,
            },
            Err(obstacle) => Err(obstacle),
        };
        match claimed {
            Ok(claimed) => {
                blocked.over(&format!("{} can be claimed", worker.slot));
                let since = Instant::now();
                worker.own(claimed).await;
                if since.elapsed() >= SHORT {
                    backoff = Backoff::for_kafka();
                    continue;
                }
            }
            Err(obstacle) => blocked.report(&format!("{} {obstacle}", worker.slot)),
        }
        if shutdown.or(sleep(backoff.next_delay())).await.is_none() {
            return;
        }
    }
}

/// A partition that is free, with what is needed to claim it.
struct Ready<H> {
    handler: H,
    topic_id: Option<Uuid>,
    earliest: i64,
}

/// A partition that was claimed, ready to be handled.
struct ClaimedPartition<H> {
    claim: Claim,
    claimed: Claimed,
    handler: H,
    start: Start,
    /// How far each instance's own state goes, where they keep one.
    parts: Option<Parts>,
    /// What the group had committed, as the topic has it.
    acknowledged: Option<i64>,
    /// Nobody else had reason to claim it.
    is_expected: bool,
}

pub(super) struct Worker<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) slot: Slot,
    pub(super) own: OwnClaims,
    /// How far this process was when the offsets topic was recreated, which took its commits along.
    pub(super) reached: Option<Position>,
    /// How the slot was last seen, and since when it is so.
    pub(super) seen: Option<(Sight, Instant)>,
    /// The life of the offsets topic in which another instance was last seen to own the slot.
    pub(super) stood_by_in: Option<u64>,
    pub(super) lost_part: LostPart,
    /// The ownership before, if this instance is to claim again. It goes on from what was done there: only its own dedup
    /// knows what was not committed, and it may have to give the partition before it has read that again.
    pub(super) unreleased: Option<Unreleased>,
    /// The latest claim may be one of this process, for which no ownership answers.
    may_own: bool,
}

impl<S: Service> Worker<S> {
    pub(super) fn set_role(&self, role: Role) {
        self.shared.status.set_role(self.slot.partition, role);
    }

    /// Waits until nobody is in the way, then opens the handler. What can fail or hang comes
    /// before the claim, so that an instance that could not handle anything takes nothing over.
    async fn ready_when_free(&mut self, blocked: &mut Trouble) -> Result<Ready<S::Handler>, Obstacle> {
        loop {
            self.standby(blocked).await?;
            let comparison = self.lost_part.take();
            let begun = Instant::now();
            // At the same time, since nobody handles the partition meanwhile.
            let (opened, log) = tokio::join!(
                open(&self.shared, &self.slot, comparison, blocked),
                log_start(&self.shared, &self.slot)
            );
            let (handler, (topic_id, earliest)) = (opened?, log?);
            // Where that took its time, somebody else may have claimed meanwhile.
            if begun.elapsed() < FRESH || self.look().await? == Verdict::Claim {
                return Ok(Ready { handler, topic_id, earliest });
            }
        }
    }

    /// What is this process's still when it stops.
    async fn unreleased(&mut self) -> Option<Unreleased> {
        let known = self.unreleased.take();
        if !self.may_own {
            return known;
        }
        Unreleased::find(&self.shared, &self.slot, known, |owner| self.own.made(owner)).await
    }

    async fn claim(&mut self, ready: Ready<S::Handler>) -> Result<ClaimedPartition<S::Handler>, Obstacle> {
        let Ready { handler, topic_id, earliest } = ready;
        let config = &self.shared.config;
        let lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
        let claim = Claim::new(config.identity.id(), &config.host, lease_ms).for_service(&config.service);
        self.own.add(claim.claim_id);
        self.may_own = true;
        let is_expected = self.is_expected(claim.instance_id);
        let claimed = self.shared.offsets.claim(&self.slot, &claim).await?;
        // The topic has been read past the claim: the position is final, late commits included.
        let (acknowledged, is_anothers) = {
            let view = self.shared.offsets.view();
            let view = view.borrow();
            self.keep_what_counts(&view);
            let last = view.slot(&self.slot).and_then(|state| state.last_commit()).map(|(_, commit)| commit);
            // A release that seemed to have failed.
            let is_anothers =
                last.is_some_and(|last| last.released && last.to.is_some_and(|to| to != claim.instance_id));
            (last.map(|last| last.offset), is_anothers)
        };
        let is_expected = is_expected && !is_anothers && claimed.sent.elapsed() < RACE;
        let own = handler.own_position();
        let commits = commits(&self.shared, &self.slot, claim.instance_id, self.unreleased.as_ref());
        let warning = commits.warning(own);
        let Commits { committed, elsewhere, done_by, .. } = commits;
        let committed = committed.or(self.reached);
        let Start { position, warning: own_warning } = start(committed, own, earliest, topic_id, elsewhere);
        let warnings: Vec<String> = own_warning.into_iter().chain(warning).collect();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        let start = Start { position, warning };
        // Positions of another topic of this name say nothing of this one, and where all is done again, nobody's part counts.
        let is_current = committed.is_some_and(|committed| {
            committed.topic_id.is_none() || committed.topic_id == start.position.topic_id
        });
        let is_kept = is_current && elsewhere.is_some();
        let mut done_by = if is_kept { done_by } else { DoneBy::default() };
        done_by.set(claim.instance_id, own_part(&done_by, claim.instance_id, own, start.position));
        let keeps_parts = self.shared.membership.is_shared() && own != OwnPosition::NotKept;
        let parts = keeps_parts.then_some(Parts { done_by, topic_id: start.position.topic_id });
        Status::count(&self.shared.status.stats().claimed, 1);
        Ok(ClaimedPartition { claim, claimed, handler, start, parts, acknowledged, is_expected })
    }

    /// Whether it is this instance's already, or was released to it by name, and no other may claim it soon.
    fn is_expected(&self, instance_id: Uuid) -> bool {
        let (view, now) = (self.shared.offsets.view(), Instant::now());
        let view = view.borrow();
        let Some(state) = view.slot(&self.slot) else { return false };
        let Some(owner) = state.owner() else { return false };
        let (instance, until) = match state.is_released() {
            true => named_until(&view, &self.slot, &self.shared.roster(&view, now).members, now).unzip(),
            false => {
                let silent_since = view.silent_since(&self.slot, now);
                (Some(owner.claim.instance_id), silent_since.map(|since| since + owner.claim.lease()))
            }
        };
        instance == Some(instance_id) && until.is_some_and(|until| now + RACE < until)
    }

    /// Handles events until a stop, or until another instance claims.
    async fn own(&mut self, claimed: ClaimedPartition<S::Handler>) {
        let ClaimedPartition { claim, claimed, handler, start, parts, acknowledged, is_expected } = claimed;
        let Start { position: start, warning } = start;
        let Slot { group, topic, partition } = &self.slot;
        let (token, offset) = (claimed.token, start.offset);
        log::info!(
            group, topic, partition, token, offset;
            "claimed {} with token {token}, reading from offset {offset}", self.slot
        );
        if let Some(warning) = warning {
            log::warn!(group, topic, partition; "{}: {warning}", self.slot);
        }
        (self.reached, self.stood_by_in, self.unreleased, self.may_own) = (None, None, None, false);
        self.lost_part.is_owner();
        let ownership = Ownership::start(&self.shared, &self.slot, &claim, &claimed, start, parts);
        if let Some(acknowledged) = acknowledged {
            self.shared.acknowledged.set(self.slot.partition, ownership.id().term(), acknowledged);
        }
        self.set_role(Role::Active { token: claimed.token });
        self.shared.status.set_position(self.slot.partition, start.offset);
        let mut owner = Owner::new(&self.shared, &self.slot, handler, ownership);
        if is_expected || !self.halted_by_others(&owner.ownership).await {
            owner.run(self.shared.reader.partition(self.slot.partition, start)).await;
        }
        let Owner { handler, ownership, .. } = owner;
        // Its unflushed work is forgotten before anybody else can claim.
        drop(handler);
        self.set_role(Role::Starting);
        if !ownership.is_halted() && ownership.is_owner() {
            log::info!("{} is opened again: its durable state was changed by another program", self.slot);
            self.unreleased = Some(ownership.abandon().await);
            return;
        }
        let (id, position) = (ownership.id().clone(), ownership.position());
        let done = self.has_claimed_since(&id).then(|| ownership.last_commit());
        let ended = ownership.end().await;
        if let Ended::Kept(unreleased) = &ended {
            self.unreleased = Some(Unreleased::clone(unreleased));
        }
        if ended == Ended::Lost {
            let view = self.shared.offsets.view();
            let (incarnation, owner) = {
                let view = view.borrow();
                (view.lives, view.slot(&self.slot).and_then(|state| state.owner()).cloned())
            };
            match owner {
                _ if incarnation != id.incarnation => {
                    log::warn!(
                        "the offsets topic was recreated or lost its end: token {} of {} is void, all instances claim again",
                        id.token,
                        self.slot
                    );
                    self.reached = Some(position);
                }
                Some(owner) if self.own.made(&owner) => {
                    log::info!(
                        "an earlier claim of {} by this process arrived late, claiming again",
                        self.slot
                    );
                    (self.unreleased, self.may_own) = (done.map(|done| Unreleased::new(id, done)), true);
                }
                Some(owner) if self.own.is_twin(&owner, id.instance_id, incarnation) => {
                    if self.shared.config.identity.id() == id.instance_id {
                        take_new_id(&self.shared.config.identity).await;
                    }
                }
                None => log::warn!(
                    "the claim of {} with token {} was removed from the offsets topic, claiming again",
                    self.slot,
                    id.token
                ),
                _ => {
                    Status::count(&self.shared.status.stats().lost, 1);
                    log::warn!(
                        group = self.slot.group, topic = self.slot.topic, partition = self.slot.partition, token = id.token;
                        "fenced: another instance has claimed {}; token {} is no longer valid",
                        self.slot,
                        id.token
                    );
                }
            }
        }
    }

    /// Gives others that see the partition to be free the time to claim it. Whether a halt came meanwhile.
    async fn halted_by_others(&self, ownership: &Ownership<S>) -> bool {
        let is_halted = ownership.halted_within(RACE).await;
        if !is_halted {
            // What the topic says by now; where it does not answer, the lease says whether anything may be done.
            let _ = timeout(RACE, self.shared.offsets.catch_up()).await;
        }
        is_halted
    }

    /// Whether an earlier claim of this process arrived behind that ownership's.
    fn has_claimed_since(&self, id: &OwnerId) -> bool {
        let view = self.shared.offsets.view();
        let view = view.borrow();
        let owner = view.slot(&self.slot).and_then(|state| state.owner());
        owner.is_some_and(|owner| owner.claim.claim_id != id.claim_id && self.own.made(owner))
    }
}
