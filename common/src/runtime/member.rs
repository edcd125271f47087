//! This instance as a member of its group: its record in the offsets topic, and what that of the others means for it.
//!
//! # Invariants
//!
//! - *Who lives is seen, whether it owns or not*: the record is renewed three times a lease, and at once when the
//!   instance no longer makes progress, or does again; it is removed as soon as a stop is asked for. An instance
//!   of another service than the group's is no member.
//! - *The topic does not fill with the dead*: what has been silent for [`FORGET_LEASES`] is removed by the member
//!   with the lowest id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::claims::other_service;
use super::handler::Service;
use super::membership::gifts;
use super::shared::Shared;
use super::status::Sharing;
use crate::kafka::KafkaError;
use crate::offsets::Member;

/// Silence after which a member's record is removed from the topic.
const FORGET_LEASES: u32 = 20;
/// Records that are removed at a time.
const MAX_FORGOTTEN: usize = 8;
/// Longest and shortest time between two looks at who lives, of which there are 30 in a lease.
const MAX_LOOK: Duration = Duration::from_millis(250);
const MIN_LOOK: Duration = Duration::from_millis(50);
/// Time between two tries to write the record.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// An instance that makes no progress for longer is given no partitions.
const MIN_TROUBLE: Duration = Duration::from_secs(1);
/// Time to leave beyond that of the workers. Who stays does not depend on it.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Keeps this instance a member until a stop is asked for, and then leaves.
pub(super) async fn run<S: Service>(shared: Arc<Shared<S>>) {
    let config = &shared.config;
    let every = (config.lease / 30).clamp(MIN_LOOK, MAX_LOOK);
    let lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
    let record = Member::new(&config.host, lease_ms, &config.topic);
    let mut keeper = Keeper {
        shared: Arc::clone(&shared),
        record,
        record_of: None,
        written: None,
        retry_at: None,
        settled: None,
        troubled: None,
    };
    // What is already there is read first: who joins later is then seen as alive at once.
    let _ = shared.shutdown.or(shared.offsets.catch_up()).await;
    while !shared.shutdown.is_requested() {
        keeper.keep().await;
        keeper.plan();
        if shared.shutdown.or(sleep(every)).await.is_none() {
            break;
        }
    }
    keeper.leave().await;
}

/// What was written last: by which id, whether it accepts, in which life of the topic, when.
type Written = (Uuid, bool, u64, Instant);

struct Keeper<S> {
    shared: Arc<Shared<S>>,
    record: Member,
    /// The id under which the topic may have a record of this member.
    record_of: Option<Uuid>,
    written: Option<Written>,
    /// When the record is tried to be written again, after a failure.
    retry_at: Option<Instant>,
    /// Who lives and accepts, and since when that has not changed.
    settled: Option<(BTreeMap<Uuid, bool>, Instant)>,
    /// Since when it makes no progress.
    troubled: Option<Instant>,
}

impl<S: Service> Keeper<S> {
    /// Writes the record if it is time to, or if what it says has changed.
    async fn keep(&mut self) {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let accepts = self.accepts();
        shared.membership.set_accepts(accepts);
        let view = shared.offsets.view();
        let (lives, is_foreign) = {
            let view = view.borrow();
            (view.lives, other_service(&view, &config.group, &config.service).is_some())
        };
        let id = config.identity.id();
        if is_foreign {
            self.written = None;
            if let Some(id) = self.record_of.take() {
                let _ = self.write(id, None).await;
            }
            return;
        }
        let is_current = self.written.is_some_and(|(by, accepted, life, at)| {
            (by, accepted, life) == (id, accepts, lives) && at.elapsed() < config.lease / 3
        });
        if is_current || self.retry_at.is_some_and(|retry_at| Instant::now() < retry_at) {
            return;
        }
        self.retry_at = None;
        self.record.accepts = accepts;
        let sent = Instant::now();
        let record = self.record.clone();
        // Whatever becomes of the attempt, it may land.
        self.record_of = Some(id);
        match self.write(id, Some(&record)).await {
            Ok(()) => {
                let is_first = self.written.replace((id, accepts, lives, sent)).is_none();
                if is_first {
                    // Those that joined just before are to be seen before anything is claimed.
                    let _ = shared.shutdown.or(shared.offsets.catch_up()).await;
                    shared.membership.set_joined();
                }
                // A stop waits for nothing but the leave.
                let _ = shared.shutdown.or(self.forget_the_dead()).await;
            }
            Err(error) => {
                // Whoever owns something reports what its commits fail with, and who does not has nothing to lose.
                log::debug!(
                    "cannot tell group {} that this instance lives, will try again: {error}",
                    config.group
                );
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }

    /// Whether this instance makes progress, or did a moment ago: what is over at once is no reason to tell anybody.
    fn accepts(&mut self) -> bool {
        let shared = &self.shared;
        if shared.status.makes_progress() && shared.service.trouble().is_none() {
            self.troubled = None;
            return true;
        }
        self.troubled.get_or_insert_with(Instant::now).elapsed() < MIN_TROUBLE.min(shared.config.lease / 6)
    }

    async fn write(&self, id: Uuid, record: Option<&Member>) -> Result<(), KafkaError> {
        let (shared, config) = (&self.shared, &self.shared.config);
        let limit = (config.lease / 3).max(Duration::from_secs(1));
        let write = shared.offsets.write_member(&config.group, id, record, limit);
        // A stop does not wait for a renewal.
        let renewal = async { shared.shutdown.or(write).await };
        match record {
            Some(_) => renewal.await.unwrap_or(Ok(())),
            None => shared.offsets.write_member(&config.group, id, None, limit).await,
        }
    }

    /// Removes records of members that have been silent for long, one member for all.
    async fn forget_the_dead(&self) {
        let (shared, config, now) = (&self.shared, &self.shared.config, Instant::now());
        let dead: Vec<Uuid> = {
            let view = shared.offsets.view();
            let view = view.borrow();
            let own = config.identity.id();
            if shared.roster(&view, now).members.keys().next() != Some(&own) {
                return;
            }
            let is_dead = |id: Uuid, member: &Member| {
                let silence = view.member_silence(&config.group, id, member.lease(), now);
                id != own && silence.is_some_and(|silence| silence >= member.lease() * FORGET_LEASES)
            };
            let members = view.fold.members(&config.group);
            members
                .filter(|(id, member)| is_dead(*id, member))
                .map(|(id, _)| id)
                .take(MAX_FORGOTTEN)
                .collect()
        };
        for id in dead {
            log::debug!("group {} forgets its member {id}, which has been silent for long", config.group);
            if self.write(id, None).await.is_err() {
                return;
            }
        }
    }

    /// Says what is to be given, if anything is.
    fn plan(&mut self) {
        let shared = &self.shared;
        let (id, now) = (shared.config.identity.id(), Instant::now());
        let view = shared.offsets.view();
        let (roster, is_in_touch) = {
            let view = view.borrow();
            (shared.roster(&view, now), view.is_in_touch())
        };
        let since = match &self.settled {
            Some((members, since)) if *members == roster.members && is_in_touch => *since,
            _ => now,
        };
        self.settled = Some((roster.members.clone(), since));
        let gifts = gifts(&roster, id, now.saturating_duration_since(since));
        // What hangs shows soon whether it is lost: what goes on stays where it is until then.
        shared.membership.set_gifts(if shared.status.hangs() { BTreeMap::new() } else { gifts });
        let (owned, target) = roster.share(id);
        shared.status.set_sharing(Sharing { members: roster.members.len(), owned, target });
    }

    /// The others need not wait for this instance's lease. What it still owns stays its own until it is released.
    async fn leave(&mut self) {
        if let Some(id) = self.record_of
            && let Err(error) = self.write(id, None).await
        {
            log::debug!("the record of this member stays in the offsets topic: {error}");
        }
        self.shared.membership.set_left();
    }
}
