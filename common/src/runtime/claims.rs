//! Whether this instance may claim a partition now, from what the offsets topic says.
//!
//! Nothing is claimed from a living owner. An owner lives as long as its records arrive within its lease;
//! a claim that this very process made, or the previous process of this instance, is claimed over at once.
//! An instance is known by the id in its state folder, which one process at a time can lock; whoever else
//! claims with that id is a twin, whose folder is a copy. What nobody owns is claimed in turn: see [`verdict`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::offsets::fold::Owner;
use crate::offsets::roster::{Roster, named};
use crate::offsets::{Slot, View};

/// Claims of this process that are remembered: one that was given up may land later.
const MAX_OWN_CLAIMS: usize = 64;
/// Time between two looks while Kafka is unreachable, when nothing can be said of an owner's silence.
const OUT_OF_TOUCH: Duration = Duration::from_millis(500);

/// What the latest claim means for this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody is in the way.
    Claim,
    /// Another instance owns the slot; it counts as silent at that time.
    Wait { owner: Owner, until: Instant },
    /// Nobody owns the slot, and until then it is left to another instance.
    Defer { to: Option<Uuid>, until: Instant },
    /// Another instance claims with this instance's id.
    Twin,
    /// The group belongs to another service.
    OtherService { service: String, slot: Slot },
}

/// The instance that asks.
pub(super) struct Candidate<'a> {
    pub(super) service: &'a str,
    pub(super) instance_id: Uuid,
    pub(super) lease: Duration,
    pub(super) own: &'a OwnClaims,
    /// The group, as of the same view.
    pub(super) roster: &'a Roster,
    /// Since when this instance has seen the slot as it is.
    pub(super) since: Instant,
    /// What it was to the slot before the offsets topic was recreated.
    pub(super) before: Before,
}

/// What of a slot decides who may claim it: the life of the topic, the owner's token, and whether it is released to whom.
pub(super) type Sight = (u64, Option<i64>, bool, Option<Uuid>);

/// What an instance was to a slot in the life of the offsets topic that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing that counts: there was no such life, or nobody owned it.
    Nothing,
    /// Its owner, which knows its position still and claims first.
    Owner,
    /// A standby of another owner.
    Standby,
}

/// The claims by which a process knows itself.
#[derive(Debug, Default)]
pub(super) struct OwnClaims {
    /// The end of the offsets topic when this process first read it, in the incarnation it then had: a claim
    /// below it with this instance's id was made by its previous process.
    start: Option<(u64, i64)>,
    made: VecDeque<Uuid>,
}

impl OwnClaims {
    /// The topic has been read to its end for the first time.
    pub(super) fn started(&mut self, view: &View) {
        self.start.get_or_insert((view.lives, view.next_offset));
    }

    pub(super) fn add(&mut self, claim_id: Uuid) {
        if self.made.len() == MAX_OWN_CLAIMS {
            self.made.pop_front();
        }
        self.made.push_back(claim_id);
    }

    /// Whether this process made the claim, or the process before it, whose instance was `instance_id`.
    fn include(&self, owner: &Owner, incarnation: u64) -> bool {
        let before = self.start.is_some_and(|(of, end)| of == incarnation && owner.token < end);
        before || self.made.contains(&owner.claim.claim_id)
    }

    /// Whether a claim with this process's instance id was made by another one.
    pub(super) fn is_twin(&self, owner: &Owner, instance_id: Uuid, incarnation: u64) -> bool {
        owner.claim.instance_id == instance_id && !self.include(owner, incarnation)
    }

    pub(super) fn made(&self, owner: &Owner) -> bool {
        self.made.contains(&owner.claim.claim_id)
    }
}

/// Whether the instance may claim the slot.
///
/// What is free is claimed at once by the one that it was given to, or else by the one whose target it is, and by
/// the others in turn, so that nobody takes it from under the first and it does not stay free.
pub(super) fn verdict(view: &View, slot: &Slot, candidate: &Candidate<'_>, now: Instant) -> Verdict {
    let Candidate { service, instance_id, lease, own, roster, since, before } = *candidate;
    if let Some((service, slot)) = other_service(view, &slot.group, service) {
        return Verdict::OtherService { service, slot };
    }
    let owner = view.slot(slot).and_then(|state| state.owner().map(|owner| (owner, state.is_released())));
    let free_since = match owner {
        Some((owner, false)) => {
            if own.is_twin(owner, instance_id, view.lives) {
                return Verdict::Twin;
            }
            if owner.claim.instance_id == instance_id || own.made(owner) {
                return Verdict::Claim;
            }
            match view.silent_since(slot, now).map(|silent| silent + owner.claim.lease()) {
                Some(expired) if now >= expired => expired,
                Some(until) => return Verdict::Wait { owner: owner.clone(), until },
                None => return Verdict::Wait { owner: owner.clone(), until: now + OUT_OF_TOUCH },
            }
        }
        Some((_, true)) => view.seen(slot).unwrap_or(since),
        None => since,
    };
    let first = named(view, slot, &roster.members, now).or_else(|| roster.target(slot.partition));
    let turn = match (owner, before) {
        (None, Before::Owner) => Duration::ZERO,
        (None, Before::Standby) => roster.turn(first, instance_id, lease) + lease / 3,
        _ => roster.turn(first, instance_id, lease),
    };
    let until = free_since + turn;
    if now >= until { Verdict::Claim } else { Verdict::Defer { to: first, until } }
}

/// The service that a group belongs to, by any of its latest claims, if it is another one.
pub(super) fn other_service(view: &View, group: &str, service: &str) -> Option<(String, Slot)> {
    let of_group = view.fold.slots().filter(|(slot, _)| slot.group == group);
    let mut claims =
        of_group.filter_map(|(slot, state)| Some((slot, state.owner()?.claim.service.as_deref()?)));
    let (slot, other) = claims.find(|(_, claimed_for)| *claimed_for != service)?;
    Some((other.to_owned(), slot.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::roster::Asker;
    use crate::offsets::{Claim, OffsetsRecord};

    fn slot() -> Slot {
        Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 }
    }

    fn view(token: i64, claim: &Claim) -> View {
        let mut view = View::default();
        view.fold.apply(token, OffsetsRecord::Claim(slot(), Some(claim.clone()))).unwrap();
        view.next_offset = token + 1;
        view
    }

    fn judge(view: &View, id: Uuid, own: &OwnClaims) -> Verdict {
        judge_at(view, id, own, Instant::now())
    }

    fn judge_at(view: &View, id: Uuid, own: &OwnClaims, now: Instant) -> Verdict {
        let asker = Asker { instance_id: id, accepts: true };
        let candidate = Candidate {
            service: "audit-service",
            instance_id: id,
            lease: Duration::from_secs(10),
            own,
            roster: &Roster::of(view, "g", "t", 1, Some(asker), now),
            since: now,
            before: Before::Nothing,
        };
        verdict(view, &slot(), &candidate, now)
    }

    #[test]
    fn a_claim_of_the_previous_process_is_claimed_over_and_one_of_a_twin_is_not() {
        let id = Uuid::new_v4();
        let claim = Claim::new(id, "host", 10_000).for_service("audit-service");
        let mut own = OwnClaims::default();
        own.started(&view(7, &claim));
        assert_eq!(judge(&view(7, &claim), id, &own), Verdict::Claim, "the process before");
        assert_eq!(judge(&view(8, &claim), id, &own), Verdict::Twin, "claimed after this process started");
        own.add(claim.claim_id);
        assert_eq!(judge(&view(8, &claim), id, &own), Verdict::Claim, "a late claim of its own");
        let mut recreated = view(3, &Claim::new(id, "host", 10_000));
        recreated.lives = 1;
        assert_eq!(judge(&recreated, id, &own), Verdict::Twin, "the topic was recreated since");
    }

    #[test]
    fn a_group_belongs_to_one_service() {
        let claim = |service: &str| Claim::new(Uuid::new_v4(), "host", 10_000).for_service(service);
        let verdict = judge(&view(7, &claim("notification-service")), Uuid::new_v4(), &OwnClaims::default());
        assert!(
            matches!(verdict, Verdict::OtherService { service, .. } if service == "notification-service")
        );
        let verdict = judge(&view(7, &claim("audit-service")), Uuid::new_v4(), &OwnClaims::default());
        assert!(matches!(verdict, Verdict::Wait { .. }), "{verdict:?}");
        let operator = Claim::new(Uuid::new_v4(), "taskctl", 10_000);
        let verdict = judge(&view(7, &operator), Uuid::new_v4(), &OwnClaims::default());
        assert!(matches!(verdict, Verdict::Wait { .. }), "a reset in progress: {verdict:?}");
    }

    /// The owner's last record was read at the start, and the topic answered at these times, in milliseconds.
    fn silence(lease_ms: u64, answers: impl IntoIterator<Item = u64>, judged_ms: u64) -> (Verdict, u64) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut view = View::default();
        view.touched(start, 0);
        let owner = Claim::new(Uuid::new_v4(), "host", lease_ms);
        view.apply_parsed(0, OffsetsRecord::Claim(slot(), Some(owner)), start).unwrap();
        answers.into_iter().for_each(|ms| view.touched(at(ms), 1));
        let verdict = judge_at(&view, Uuid::new_v4(), &OwnClaims::default(), at(judged_ms));
        let until = match &verdict {
            Verdict::Wait { until, .. } => u64::try_from((*until - start).as_millis()).unwrap(),
            _ => 0,
        };
        (verdict, until)
    }

    #[test]
    fn silence_in_which_nothing_was_read_is_not_the_owners() {
        let each_half_second = |end| (500..=end).step_by(500);
        for lease in [2_000, 10_000, 60_000] {
            let (listened, _) = silence(lease, each_half_second(lease), lease);
            assert!(!matches!(listened, Verdict::Wait { .. }), "{lease}: {listened:?}");
            // It stopped for a lease, and has read nothing since.
            let (stopped, until) = silence(lease, each_half_second(500), 500 + lease);
            assert!(matches!(stopped, Verdict::Wait { .. }), "{lease}: {stopped:?}");
            assert_eq!(until, 500 + lease + 500, "it looks again soon");
            // It has read something: who lives has some time left.
            let (_, until) = silence(lease, [500, 500 + lease], 500 + lease);
            assert!((lease / 3..=lease / 2).contains(&(until - 500 - lease)), "{lease}: {until}");
        }
        // A pause that leaves an owner with a short lease no time for its next record.
        let (_, until) = silence(2_000, [500, 1_900, 2_400], 2_400);
        assert_eq!(until, 1_900 + 900);
    }
}
