//! The last commit of an ownership: it says that whoever is to own next need not wait for the lease to end; where it
//! was not written, this instance goes on from it when it claims again.
//!
//! *A stop leaves nothing claimed*: neither what was owned, nor a partition that was to be given and is kept, nor one
//! that is opened again, nor a claim of which this process never heard whether it was made.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::handler::Service;
use super::owner_id::OwnerId;
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::kafka::KafkaError;
use crate::offsets::fold::Owner;
use crate::offsets::{Commit, OffsetsLog, Slot, View};

/// Time for the release.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that has not answered a release by then may hang, and would take all of that time: it is sent over another as
/// well.
const HANGS_AFTER: Duration = Duration::from_millis(750);
/// Time to look for a claim before that.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);

/// An ownership that has ended without a release: nobody renews it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreleased {
    id: OwnerId,
    /// Its last commit.
    commit: Commit,
}

impl Unreleased {
    pub(super) fn new(id: OwnerId, commit: Commit) -> Self {
        Self { id, commit }
    }

    /// What a claim of this process left that is the slot's latest, though no ownership came of it: what is known to be
    /// done, or nothing since the last commit. `None` also for a group that has committed nothing yet: there is no
    /// position to release.
    pub(super) async fn find<S: Service>(
        shared: &Shared<S>,
        slot: &Slot,
        known: Option<Self>,
        is_own: impl Fn(&Owner) -> bool,
    ) -> Option<Self> {
        // What is not known by then is looked for in what was read so far.
        let _ = timeout(LOOK_TIMEOUT, shared.offsets.catch_up()).await;
        let view = shared.offsets.view();
        let view = view.borrow();
        let state = view.slot(slot).filter(|state| !state.is_released())?;
        let owner = state.owner().filter(|owner| is_own(owner))?;
        let id = OwnerId::of(owner, &view);
        let commit = match known {
            Some(known) if known.id == id || known.is_latest(&view, slot) => known.commit,
            _ => state.last_commit()?.1.clone(),
        };
        Some(Self::new(id, commit))
    }

    /// Whether nobody has committed since, an operator neither: then more is done than the topic says.
    pub(super) fn is_latest(&self, view: &View, slot: &Slot) -> bool {
        let last = view.slot(slot).and_then(|state| state.last_commit());
        view.lives == self.id.incarnation && last.is_none_or(|(token, _)| token <= self.id.token)
    }

    /// The life of the offsets topic in which it was.
    pub(super) fn incarnation(&self) -> u64 {
        self.id.incarnation
    }

    pub(super) fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Releases the partition to those that stay, if it is still this ownership's.
    pub(super) async fn release<S: Service>(self, shared: &Shared<S>, slot: &Slot) {
        shared.membership.left().await;
        let (owns, to) = {
            let view = shared.offsets.view();
            let view = view.borrow();
            (self.id.owns(&view, slot), next_owner(shared, &view, slot, &self.id))
        };
        if !owns {
            return;
        }
        // What another instance committed is not this one's to give: whose it is to be finds it free.
        let to = to.filter(|_| self.commit.instance_id == self.id.instance_id);
        let offset = self.offset();
        match self.write(shared, slot, to, Instant::now() + RELEASE_TIMEOUT).await {
            Ok(()) => log::info!("released {slot} at offset {offset}"),
            Err(error) => log::warn!(
                "could not release {slot} at offset {offset}, the next owner waits for the lease to end: {error}"
            ),
        }
    }

    /// The offset to read next.
    pub(super) fn offset(&self) -> i64 {
        self.commit.offset
    }

    /// Writes the release, for one instance where one is named; again where it fails: brokers are restarted together with
    /// what they serve, and a repeat does no harm.
    pub(super) async fn write<S>(
        &self,
        shared: &Shared<S>,
        slot: &Slot,
        to: Option<Uuid>,
        until: Instant,
    ) -> Result<(), KafkaError> {
        let commit = self.commit.clone().released_to(to);
        let mut backoff = Backoff::for_kafka();
        let mut error = KafkaError::Timeout { call: "commit".to_owned(), after: RELEASE_TIMEOUT };
        let attempts = async {
            loop {
                match send(&shared.offsets, slot, self.id.token, &commit, until).await {
                    Ok(_) => return,
                    Err(failed) => error = failed,
                }
                sleep(backoff.next_delay()).await;
            }
        };
        timeout_at(until, attempts).await.map_err(|_| error)
    }
}

/// Sends a release once, or twice where the connection seems to hang. The first goes on meanwhile: it may be the one that
/// connects, for all partitions.
async fn send(
    offsets: &OffsetsLog,
    slot: &Slot,
    token: i64,
    release: &Commit,
    until: Instant,
) -> Result<i64, KafkaError> {
    let start = Instant::now();
    let commit = || offsets.commit(slot, token, release, until.saturating_duration_since(Instant::now()));
    let second = async {
        sleep(HANGS_AFTER).await;
        offsets.reconnect().await;
        commit().await
    };
    let (mut first, mut second) = (pin!(commit()), pin!(second));
    tokio::select! {
        biased;
        written = &mut first => match written {
            Err(_) if start.elapsed() >= HANGS_AFTER => second.await,
            written => written,
        },
        written = &mut second => match written {
            Err(_) => first.await,
            written => written,
        },
    }
}

/// Who stops leaves to those that stay.
pub(super) fn next_owner<S>(shared: &Shared<S>, view: &View, slot: &Slot, id: &OwnerId) -> Option<Uuid> {
    shared.roster(view, Instant::now()).without(id.instance_id).target(slot.partition)
}
