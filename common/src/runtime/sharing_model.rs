//! The model of sharing: instances that join, leave, die, pause, read late, are blocked or do not claim what they are
//! given, over any interleaving, with compaction at any point, over a topic that is recreated, and beside an older
//! version. Each has a view of its own, and decides with the code of the runtime: the fold, the roster, [`verdict`] and
//! [`gifts`]. At rest
//!
//! - each partition has one owner, which lives and knows it;
//! - no instance has two partitions more than another, unless one is of an older version, and nothing moves any more;
//! - nothing was claimed from an owner that was seen to live.

mod ops;
mod properties;

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::claims::{Before, Candidate, OwnClaims, Verdict, verdict};
use super::membership::{SETTLE_TIME, gifts};
use crate::offsets::roster::{Asker, Roster};
use crate::offsets::{Claim, Commit, Key, Member, OffsetsRecord, Slot, View, render_key};

const LEASE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
const PARTITIONS: usize = 6;
/// As long as a gift that is not claimed is held against an instance, and then some.
const REST: Duration = Duration::from_secs(30);

/// What the model has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// It claims what is to be its own from a living owner.
    Thief,
    /// It does not say that it lives.
    Invisible,
    /// It gives as soon as it sees a newcomer.
    Hasty,
}

fn slot(partition: usize) -> Slot {
    Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: i32::try_from(partition).unwrap() }
}

type Sight = (Option<i64>, bool, Option<Uuid>);

/// One partition as an instance works on it.
#[derive(Default)]
struct Work {
    own: OwnClaims,
    token: Option<i64>,
    renewed: Option<Instant>,
    sight: Option<(Sight, Instant)>,
    look_at: Option<Instant>,
    /// A claim that was decided on and not yet written.
    claiming: bool,
    /// What it was before the offsets topic was recreated.
    before: Option<Before>,
}

struct Instance {
    id: Uuid,
    view: View,
    read: usize,
    member: Member,
    written: Option<(bool, Instant)>,
    settled: Option<(BTreeMap<Uuid, bool>, Instant)>,
    work: Vec<Work>,
    is_paused: bool,
    is_blocked: bool,
    is_broken: bool,
    /// Of a version that knows no members and no names: it claims what is released at once.
    is_old: bool,
}

struct World {
    bug: Bug,
    start: Instant,
    now: Instant,
    log: Vec<OffsetsRecord>,
    /// Which records compaction removed: those that start do not read them.
    compacted: Vec<bool>,
    instances: Vec<Instance>,
    joined: u128,
    claims: usize,
    thefts: usize,
    dice: u64,
}

impl World {
    fn new(bug: Bug, dice: u64) -> Self {
        let start = Instant::now();
        let (log, compacted, instances) = (Vec::new(), Vec::new(), Vec::new());
        Self { bug, start, now: start, log, compacted, instances, joined: 0, claims: 0, thefts: 0, dice }
    }

    fn one_in(&mut self, n: u64) -> bool {
        // SplitMix64: the same for the same seed.
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(n)
    }

    fn append(&mut self, record: OffsetsRecord) -> i64 {
        self.log.push(record);
        self.compacted.push(false);
        i64::try_from(self.log.len()).unwrap() - 1
    }

    fn key(record: &OffsetsRecord) -> Vec<u8> {
        render_key(&match record {
            OffsetsRecord::Claim(slot, _) => Key::Claim(slot.clone()),
            OffsetsRecord::Commit(slot, token, _) => Key::Commit(slot.clone(), *token),
            OffsetsRecord::Member(group, id, _) => Key::Member(group.clone(), *id),
        })
    }

    fn compact(&mut self, share: u8) {
        let end = self.log.len() * usize::from(share) / 255;
        for at in 0..end {
            let key = Self::key(&self.log[at]);
            self.compacted[at] |= self.log[at + 1..end].iter().any(|later| Self::key(later) == key);
        }
    }

    fn join(&mut self) {
        self.joined += 1;
        let member = Member::new("host", 2_000, "t");
        let mut view = View::default();
        view.touched(self.now, i64::try_from(self.log.len()).unwrap());
        for (at, record) in self.log.iter().enumerate().filter(|(at, _)| !self.compacted[*at]) {
            let _ = view.apply_parsed(i64::try_from(at).unwrap(), record.clone(), self.now);
        }
        let work = (0..PARTITIONS).map(|_| Work::default()).collect();
        self.instances.push(Instance {
            id: Uuid::from_u128(self.joined * 7_919 % 1_009),
            view,
            read: self.log.len(),
            member,
            written: None,
            settled: None,
            work,
            is_paused: false,
            is_blocked: false,
            is_broken: false,
            is_old: false,
        });
    }

    fn read(&mut self, who: usize) {
        let instance = &mut self.instances[who];
        let end = i64::try_from(self.log.len()).unwrap();
        instance.view.touched(self.now, end);
        for at in instance.read..self.log.len() {
            let _ = instance.view.apply_parsed(i64::try_from(at).unwrap(), self.log[at].clone(), self.now);
        }
        (instance.read, instance.view.next_offset) = (self.log.len(), end);
    }

    fn roster(&self, who: usize) -> Roster {
        let instance = &self.instances[who];
        let asker = Asker { instance_id: instance.id, accepts: !instance.is_blocked };
        let partitions = i32::try_from(PARTITIONS).unwrap();
        Roster::of(&instance.view, "g", "t", partitions, Some(asker), self.now)
    }

    /// One turn of an instance: what the runtime does in its tasks.
    fn act(&mut self, who: usize) {
        if !self.one_in(4) {
            self.read(who);
        }
        self.keep(who);
        self.own(who);
        for partition in 0..PARTITIONS {
            self.stand_by(who, partition);
        }
    }

    fn keep(&mut self, who: usize) {
        if self.bug == Bug::Invisible || self.instances[who].is_old {
            return;
        }
        let (now, instance) = (self.now, &mut self.instances[who]);
        let accepts = !instance.is_blocked;
        if instance.written.is_some_and(|(said, at)| said == accepts && now < at + LEASE / 3) {
            return;
        }
        instance.written = Some((accepts, now));
        instance.member.accepts = accepts;
        let record = OffsetsRecord::Member("g".to_owned(), instance.id, Some(instance.member.clone()));
        self.append(record);
    }

    fn commit(&mut self, who: usize, partition: usize, released: bool, to: Option<Uuid>) {
        let id = self.instances[who].id;
        let Some(token) = self.instances[who].work[partition].token else { return };
        let commit = Commit::new(0, id, released).released_to(to);
        let commit = if released { commit } else { Commit::new(0, id, false) };
        self.append(OffsetsRecord::Commit(slot(partition), token, Some(commit)));
        self.instances[who].work[partition].renewed = Some(self.now);
        if released {
            let work = &mut self.instances[who].work[partition];
            (work.token, work.sight, work.look_at) = (None, None, None);
        }
    }

    fn own(&mut self, who: usize) {
        let roster = self.roster(who);
        let instance = &mut self.instances[who];
        let since = match &instance.settled {
            Some((members, since)) if *members == roster.members => *since,
            _ => self.now,
        };
        instance.settled = Some((roster.members.clone(), since));
        let settled_for = if self.bug == Bug::Hasty { SETTLE_TIME } else { self.now - since };
        let gifts = if instance.is_old { BTreeMap::new() } else { gifts(&roster, instance.id, settled_for) };
        for partition in 0..PARTITIONS {
            let instance = &mut self.instances[who];
            let work = &mut instance.work[partition];
            let Some(token) = work.token else { continue };
            let owner = instance.view.slot(&slot(partition)).and_then(|state| state.owner());
            if owner.is_none_or(|owner| owner.token != token) {
                (work.token, work.look_at) = (None, None);
                continue;
            }
            let renewed = work.renewed.unwrap_or(self.start);
            match gifts.get(&i32::try_from(partition).unwrap()) {
                Some(to) if self.now < renewed + LEASE => self.commit(who, partition, true, Some(*to)),
                _ if self.now >= renewed + LEASE / 3 => self.commit(who, partition, false, None),
                _ => {}
            }
        }
    }

    fn sight(&self, who: usize, partition: usize) -> Sight {
        let state = self.instances[who].view.slot(&slot(partition));
        let token = state.and_then(|state| state.owner()).map(|owner| owner.token);
        (token, state.is_some_and(|state| state.is_released()), state.and_then(|state| state.released_to()))
    }

    fn stand_by(&mut self, who: usize, partition: usize) {
        let now = self.now;
        if self.instances[who].work[partition].claiming {
            self.claim(who, partition);
        }
        let sight = self.sight(who, partition);
        let work = &self.instances[who].work[partition];
        let has_changed = work.sight.is_none_or(|(known, _)| known != sight);
        if work.token.is_some() || !has_changed && work.look_at.is_some_and(|at| now < at) {
            return;
        }
        // Whoever decides reads to the end first.
        self.read(who);
        let (sight, roster) = (self.sight(who, partition), self.roster(who));
        let instance = &mut self.instances[who];
        let (id, view, work) = (instance.id, &instance.view, &mut instance.work[partition]);
        work.own.started(view);
        let since = work.sight.filter(|(known, _)| *known == sight).map_or(now, |(_, since)| since);
        work.sight = Some((sight, since));
        let candidate = Candidate {
            service: "s",
            instance_id: id,
            lease: LEASE,
            own: &work.own,
            roster: &roster,
            since,
            before: work.before.unwrap_or(Before::Nothing),
        };
        let mut decided = verdict(view, &slot(partition), &candidate, now);
        if instance.is_old && matches!(decided, Verdict::Defer { .. }) {
            decided = Verdict::Claim;
        }
        let is_thief = self.bug == Bug::Thief && roster.target(i32::try_from(partition).unwrap()) == Some(id);
        work.look_at = match &decided {
            Verdict::Wait { until, .. } | Verdict::Defer { until, .. } => Some(*until),
            _ => None,
        };
        let is_of_the_living = matches!(decided, Verdict::Wait { .. });
        if decided == Verdict::Claim || is_thief && is_of_the_living {
            self.thefts += usize::from(is_of_the_living);
            work.claiming = !instance.is_broken;
            // Some claims are written at once, and some after others have acted.
            if work.claiming && !self.one_in(3) {
                self.claim(who, partition);
            }
        }
    }

    fn claim(&mut self, who: usize, partition: usize) {
        let id = self.instances[who].id;
        let claim = Claim::new(id, "host", 2_000);
        self.instances[who].work[partition].own.add(claim.claim_id);
        let token = self.append(OffsetsRecord::Claim(slot(partition), Some(claim)));
        self.claims += 1;
        self.read(who);
        let work = &mut self.instances[who].work[partition];
        (work.token, work.renewed, work.claiming, work.before) = (Some(token), Some(self.now), false, None);
    }

    fn tick(&mut self) {
        self.now += TICK;
        let first = if self.instances.is_empty() { 0 } else { self.log.len() % self.instances.len() };
        for turn in 0..self.instances.len() {
            let who = (first + turn) % self.instances.len();
            if !self.instances[who].is_paused {
                self.act(who);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
        }
    }

    /// Leaves as the runtime does: its record goes first, then each partition goes to the one whose it is to be.
    fn leave(&mut self, who: usize) {
        self.read(who);
        let (id, is_old) = (self.instances[who].id, self.instances[who].is_old);
        if !is_old {
            self.append(OffsetsRecord::Member("g".to_owned(), id, None));
        }
        let roster = self.roster(who).without(id);
        for partition in 0..PARTITIONS {
            let to = roster.target(i32::try_from(partition).unwrap()).filter(|_| !is_old);
            self.commit(who, partition, true, to);
        }
        self.instances.remove(who);
    }

    /// All are well again, and given the time to share.
    fn come_to_rest(&mut self) {
        if self.instances.is_empty() {
            self.join();
        }
        for instance in &mut self.instances {
            (instance.is_paused, instance.is_blocked, instance.is_broken) = (false, false, false);
        }
        self.run(REST);
    }

    fn counts(&self) -> Vec<usize> {
        let counts = self.instances.iter();
        counts.map(|instance| instance.work.iter().filter(|work| work.token.is_some()).count()).collect()
    }

    /// What does not hold at rest.
    fn wrong(&mut self) -> Option<String> {
        let claims = self.claims;
        self.run(3 * LEASE);
        for who in 0..self.instances.len() {
            self.read(who);
        }
        let counts = self.counts();
        if self.thefts > 0 {
            return Some(format!("{} claims from a living owner", self.thefts));
        }
        if self.claims != claims {
            return Some(format!("{} claims at rest", self.claims - claims));
        }
        for partition in 0..PARTITIONS {
            let owners = self.instances.iter().filter(|instance| {
                let owner = instance.view.slot(&slot(partition)).and_then(|state| state.owner());
                let token = instance.work[partition].token;
                token.is_some() && token == owner.map(|owner| owner.token)
            });
            let owners = owners.count();
            if owners != 1 {
                return Some(format!("partition {partition} has {owners} owners"));
            }
        }
        // What one of an older version has stays its own.
        let shares = self.instances.iter().all(|instance| !instance.is_old);
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        (shares && spread > 1).then(|| format!("the instances have {counts:?}"))
    }
}
