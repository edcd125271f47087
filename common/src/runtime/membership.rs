//! The group as the workers of all partitions see it: whether this instance has joined it, and what it is to
//! give to others. [`member`](super::member) writes it.
//!
//! *Nothing is given in haste*: only while the topic is followed, and after who lives, and who accepts, has not
//! changed for [`SETTLE_TIME`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::offsets::roster::Roster;
use crate::offsets::{Slot, View};

/// Instances of a deployment start within this time of each other: what is moved after it is moved once.
pub(super) const SETTLE_TIME: Duration = Duration::from_secs(2);
/// Time to join before partitions are claimed all the same: those that start together then see each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to leave before partitions are released all the same.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(300);

/// What the workers ask of the membership.
#[derive(Debug)]
pub(super) struct Membership {
    partitions: AtomicI32,
    accepts: AtomicBool,
    gifts: watch::Sender<BTreeMap<i32, Uuid>>,
    joined: watch::Sender<bool>,
    left: watch::Sender<bool>,
    veterans: OnceLock<BTreeSet<Uuid>>,
}

impl Membership {
    pub(super) fn new(partitions: i32) -> Self {
        let (gifts, joined, left) =
            (watch::channel(BTreeMap::new()).0, watch::channel(false).0, watch::channel(false).0);
        Self {
            partitions: partitions.into(),
            accepts: true.into(),
            gifts,
            joined,
            left,
            veterans: OnceLock::new(),
        }
    }

    /// The topic has so many partitions.
    pub(super) fn set_partitions(&self, partitions: i32) {
        self.partitions.store(partitions, Ordering::Relaxed);
    }

    /// Whether there is more than one partition, and so anything to share.
    pub(super) fn is_shared(&self) -> bool {
        self.partitions.load(Ordering::Relaxed) > 1
    }

    /// The instances of which the topic spoke when it was first read: asked before this process claims anything.
    pub(super) fn veterans(&self, view: &View, slot: &Slot) -> &BTreeSet<Uuid> {
        self.veterans.get_or_init(|| view.fold.instances(&slot.group, &slot.topic))
    }

    /// Returns once this instance is a member, or could not become one in time.
    pub(super) async fn joined(&self) {
        let mut joined = self.joined.subscribe();
        let _ = timeout(JOIN_TIMEOUT, joined.wait_for(|joined| *joined)).await;
    }

    /// Returns once this instance is no member any more, or could not leave in time: what it releases before would be
    /// given back to it.
    pub(super) async fn left(&self) {
        let mut left = self.left.subscribe();
        let _ = timeout(LEAVE_TIMEOUT, left.wait_for(|left| *left)).await;
    }

    pub(super) fn set_left(&self) {
        self.left.send_replace(true);
    }

    /// Which partitions of this instance are to be given to whom.
    pub(super) fn gifts(&self) -> watch::Receiver<BTreeMap<i32, Uuid>> {
        self.gifts.subscribe()
    }

    pub(super) fn set_gifts(&self, gifts: BTreeMap<i32, Uuid>) {
        self.gifts.send_if_modified(|known| std::mem::replace(known, gifts.clone()) != gifts);
    }

    /// A partition is kept after all: it is given again only if who lives then says so.
    pub(super) fn keep(&self, partition: i32) {
        self.gifts.send_if_modified(|known| known.remove(&partition).is_some());
    }

    pub(super) fn set_joined(&self) {
        self.joined.send_replace(true);
    }

    /// Whether this instance makes progress, and so can be given partitions.
    pub(super) fn accepts(&self) -> bool {
        self.accepts.load(Ordering::Relaxed)
    }

    pub(super) fn set_accepts(&self, accepts: bool) {
        self.accepts.store(accepts, Ordering::Relaxed);
    }

    pub(super) fn partitions(&self) -> i32 {
        self.partitions.load(Ordering::Relaxed)
    }
}

/// What an instance gives after who lives has not changed for that time.
pub(super) fn gifts(roster: &Roster, id: Uuid, settled_for: Duration) -> BTreeMap<i32, Uuid> {
    if settled_for < SETTLE_TIME { BTreeMap::new() } else { roster.gifts(id) }
}
