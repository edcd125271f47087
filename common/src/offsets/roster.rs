//! Who of a group lives and has which partition, as one instance sees it now, and who is to have it.
//!
//! Two instances that read the topic to the same record may still differ in who is alive, by when they read it.
//! That decides who claims first and what moves when, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::assignor::{Holder, targets};
use super::follower::{MemberLife, View};
use super::member::{ASSIGNOR, Member};
use super::record::Slot;

/// For so many leases nothing is given to an instance that left a gift unclaimed, unless it starts again.
const REFUSAL_LEASES: u32 = 6;
/// In a lease so many instances have their turn to claim what is free.
const TURNS_PER_LEASE: u32 = 3;

/// The instance that asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// It is a member, whether or not its own record was read.
    pub instance_id: Uuid,
    /// Whether it makes progress.
    pub accepts: bool,
}

/// A group, for one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Each member that counts as alive, and whether it can be given partitions.
    pub members: BTreeMap<Uuid, bool>,
    /// Who has each partition, by its number.
    pub holders: Vec<Holder>,
    /// Who is to have it.
    pub targets: Vec<Option<Uuid>>,
}

impl Roster {
    /// As the view says at that time.
    pub fn of(
        view: &View,
        group: &str,
        topic: &str,
        partitions: i32,
        asker: Option<Asker>,
        now: Instant,
    ) -> Self {
        let mut members = members(view, group, topic, now);
        if let Some(Asker { instance_id, accepts }) = asker {
            members.insert(instance_id, accepts);
        }
        let slot = |partition| Slot { group: group.to_owned(), topic: topic.to_owned(), partition };
        let mut holders = Vec::new();
        for partition in 0..partitions {
            holders.push(holder(view, &slot(partition), &mut members, now));
        }
        Self::new(members, holders)
    }

    fn new(mut members: BTreeMap<Uuid, bool>, holders: Vec<Holder>) -> Self {
        // Where nobody makes progress, what is free is better off with anybody than with nobody.
        if members.values().all(|accepts| !accepts) {
            members.values_mut().for_each(|accepts| *accepts = true);
        }
        let targets = targets(&holders, &members);
        Self { members, holders, targets }
    }

    /// The same once that instance has left.
    pub fn without(&self, instance_id: Uuid) -> Self {
        let mut members = self.members.clone();
        members.remove(&instance_id);
        let holders = self.holders.iter().map(|holder| match holder {
            Holder::Member(id) if *id == instance_id => Holder::Nobody,
            other => *other,
        });
        Self::new(members, holders.collect())
    }

    /// Who is to have the partition.
    pub fn target(&self, partition: i32) -> Option<Uuid> {
        self.targets.get(usize::try_from(partition).ok()?).copied().flatten()
    }

    /// To whom each partition of the instance is to be given.
    pub fn gifts(&self, from: Uuid) -> BTreeMap<i32, Uuid> {
        let each = (0..).zip(self.holders.iter().zip(&self.targets));
        each.filter_map(|(partition, (holder, target))| match (holder, target) {
            (Holder::Member(id), Some(target)) if *id == from && *target != from => {
                Some((partition, *target))
            }
            _ => None,
        })
        .collect()
    }

    /// How many partitions the instance has, and is to have.
    pub fn share(&self, instance_id: Uuid) -> (usize, usize) {
        let has = self.holders.iter().filter(|holder| **holder == Holder::Member(instance_id)).count();
        (has, self.targets.iter().filter(|target| **target == Some(instance_id)).count())
    }

    /// How long the instance leaves a free partition to those that come before it.
    pub fn turn(&self, first: Option<Uuid>, instance_id: Uuid, lease: Duration) -> Duration {
        if first == Some(instance_id) {
            return Duration::ZERO;
        }
        let others = self.members.iter().filter(|(id, _)| Some(**id) != first);
        let mut order: Vec<_> = others.map(|(id, accepts)| (!*accepts, *id)).collect();
        order.sort_unstable();
        let place = order.iter().position(|(_, id)| *id == instance_id).unwrap_or(order.len());
        lease / TURNS_PER_LEASE * u32::try_from(place + 1).unwrap_or(u32::MAX)
    }
}

/// The members that count as alive, and whether each can be given partitions.
fn members(view: &View, group: &str, topic: &str, now: Instant) -> BTreeMap<Uuid, bool> {
    let shares = |member: &Member| {
        member.assignor == ASSIGNOR && member.topic.as_deref().is_none_or(|reads| reads == topic)
    };
    let of_group = view.fold.members(group).filter(|(_, member)| shares(member));
    let alive = of_group.filter_map(|(id, member)| {
        let life = view.member_life(group, id, member.lease(), now);
        let has_refused =
            view.refused(group, id).is_some_and(|refused| now < refused + member.lease() * REFUSAL_LEASES);
        let accepts = member.accepts && life == MemberLife::Alive && !has_refused;
        (life != MemberLife::Dead).then_some((id, accepts))
    });
    alive.collect()
}

/// Who has the slot. An owner whose lease ran out gets no more, though it may be alive: it hangs.
fn holder(view: &View, slot: &Slot, members: &mut BTreeMap<Uuid, bool>, now: Instant) -> Holder {
    let Some(state) = view.slot(slot) else { return Holder::Nobody };
    let Some(owner) = state.owner() else { return Holder::Nobody };
    if state.is_released() {
        return named(view, slot, members, now).map_or(Holder::Nobody, Holder::Member);
    }
    let id = owner.claim.instance_id;
    let expires = view.silent_since(slot, now).map(|since| since + owner.claim.lease());
    match (expires.is_some_and(|expires| now >= expires), members.get_mut(&id)) {
        (true, Some(accepts)) => {
            *accepts = false;
            Holder::Nobody
        }
        (true, None) => Holder::Nobody,
        (false, Some(_)) => Holder::Member(id),
        (false, None) => Holder::Other,
    }
}

/// The member that the slot was released to, as long as it may be about to claim it: one that is known to live and to
/// make progress.
pub fn named(view: &View, slot: &Slot, members: &BTreeMap<Uuid, bool>, now: Instant) -> Option<Uuid> {
    named_until(view, slot, members, now).map(|(to, _)| to)
}

/// The same, and until when it is left to that member.
pub fn named_until(
    view: &View,
    slot: &Slot,
    members: &BTreeMap<Uuid, bool>,
    now: Instant,
) -> Option<(Uuid, Instant)> {
    let state = view.slot(slot)?;
    let (to, owner) = (state.released_to()?, state.owner()?);
    let until = view.seen(slot)? + owner.claim.lease() / TURNS_PER_LEASE;
    (now < until && members.get(&to) == Some(&true)).then_some((to, until))
}
