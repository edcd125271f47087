//! The model of the offsets topic: any interleaving of instances, late commits of fenced owners, releases,
//! tombstones, and compaction at any point. Whatever happens,
//!
//! - all who read to the end agree on the owner and the position, compacted or not;
//! - the owner is the latest claim;
//! - every event below the position was handled by somebody (nothing is skipped);
//! - a commit of a fenced owner moves the position only while no newer owner has committed;
//! - a commit under a token of another life of the topic never gives the position.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use task_events::offsets::fold::Fold;
use task_events::offsets::{Claim, Commit, Key, OffsetsRecord, Slot, parse, render_key};
use uuid::Uuid;

const INSTANCES: usize = 4;

/// What may happen next. The numbers choose an instance.
#[derive(Debug, Clone)]
enum Step {
    /// An instance claims, reads the log to its end and starts from the position it finds.
    Claim(usize),
    /// A claim lands, but its instance dies before it reads it.
    ClaimAndDie(usize),
    /// An instance that believes to be the owner handles some events.
    Handle(usize, u8),
    /// It commits what it has handled. It may have been fenced long ago.
    Commit(usize),
    /// A commit sent earlier lands only now, after later ones.
    CommitLandsLate(usize),
    /// It commits for the last time.
    Release(usize),
    /// It has committed, and tombstones what it knows of older tokens.
    Tombstone(usize),
    /// It crashes: what it handled and did not commit is forgotten by it, not by the world.
    Crash(usize),
    /// The log is compacted below an offset; the active segment above it is left alone.
    Compact(u8),
    /// Old tombstones below an offset go for good.
    DropTombstones(u8),
    /// Somebody writes nonsense.
    Garbage,
    /// A commit that was copied from another topic, or from another life of this one: its token is not below
    /// its own offset.
    Foreign(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..INSTANCES;
    prop_oneof![
        3 => who.clone().prop_map(Step::Claim),
        1 => who.clone().prop_map(Step::ClaimAndDie),
        6 => (who.clone(), 1..20u8).prop_map(|(who, n)| Step::Handle(who, n)),
        6 => who.clone().prop_map(Step::Commit),
        1 => who.clone().prop_map(Step::CommitLandsLate),
        1 => who.clone().prop_map(Step::Release),
        3 => who.clone().prop_map(Step::Tombstone),
        1 => who.prop_map(Step::Crash),
        2 => any::<u8>().prop_map(Step::Compact),
        1 => any::<u8>().prop_map(Step::DropTombstones),
        1 => Just(Step::Garbage),
        1 => any::<(u8, u8)>().prop_map(|(above, offset)| Step::Foreign(above, offset)),
    ]
}

type Raw = (Vec<u8>, Option<Vec<u8>>);

/// The topic: offset → record. Offsets are never reused.
#[derive(Default)]
struct Topic {
    records: BTreeMap<i64, Raw>,
    end: i64,
}

impl Topic {
    fn append(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> i64 {
        self.records.insert(self.end, (key, value));
        self.end += 1;
        self.end - 1
    }

    /// Keeps the last record of each key below `dirty_end`, as Kafka's cleaner does.
    fn compact(&mut self, dirty_end: i64) {
        let last: BTreeMap<Vec<u8>, i64> =
            self.records.range(..dirty_end).map(|(offset, (key, _))| (key.clone(), *offset)).collect();
        self.records.retain(|offset, (key, _)| *offset >= dirty_end || last.get(key) == Some(offset));
    }

    /// What Kafka does delete.retention.ms later, in a part that is compacted.
    fn drop_tombstones(&mut self, below: i64) {
        self.compact(below);
        self.records.retain(|offset, (_, value)| *offset >= below || value.is_some());
    }

    fn fold(&self) -> Fold {
        let mut fold = Fold::default();
        for (offset, (key, value)) in &self.records {
            if let Ok(record) = parse(Some(key), value.as_deref()) {
                let _ = fold.apply(*offset, record);
            }
        }
        fold
    }
}

#[derive(Clone)]
struct Running {
    token: i64,
    next: i64,
    committed: bool,
    first_commit: Option<i64>,
}

#[derive(Default)]
struct World {
    topic: Topic,
    /// The same log, never compacted.
    whole: Topic,
    running: [Option<Running>; INSTANCES],
    handled: BTreeSet<i64>,
    latest_claim: Option<i64>,
}

fn slot() -> Slot {
    Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 }
}

impl World {
    fn append(&mut self, key: Key, value: Option<Vec<u8>>) -> i64 {
        let key = render_key(&key);
        self.whole.append(key.clone(), value.clone());
        self.topic.append(key, value)
    }

    fn claim(&mut self, who: usize) -> i64 {
        let claim = Claim::new(Uuid::from_u128(who as u128), "host", 1_000);
        let token = self.append(Key::Claim(slot()), Some(serde_json::to_vec(&claim).unwrap()));
        self.latest_claim = Some(token);
        token
    }

    fn commit(&mut self, who: usize, offset: i64, released: bool) {
        let Some(running) = self.running[who].clone() else { return };
        let before = self.topic.fold();
        let position = before.slot(&slot()).and_then(|state| state.position());
        let newer_has_committed = before
            .slot(&slot())
            .and_then(|state| state.last_commit())
            .is_some_and(|(token, _)| token > running.token);
        let commit = Commit::new(offset, Uuid::from_u128(who as u128), released);
        self.append(Key::Commit(slot(), running.token), Some(serde_json::to_vec(&commit).unwrap()));
        if newer_has_committed {
            let after = self.topic.fold().slot(&slot()).and_then(|state| state.position());
            assert_eq!(after, position, "a fenced owner moved the position of one that has committed");
        }
        if let Some(running) = &mut self.running[who] {
            running.committed = true;
            running.first_commit.get_or_insert(offset);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Claim(who) => {
                let token = self.claim(who);
                let next = self.topic.fold().slot(&slot()).and_then(|state| state.position()).unwrap_or(0);
                self.running[who] = Some(Running { token, next, committed: false, first_commit: None });
            }
            Step::ClaimAndDie(who) => {
                self.claim(who);
                self.running[who] = None;
            }
            Step::Handle(who, n) => {
                if let Some(running) = &mut self.running[who] {
                    self.handled.extend(running.next..running.next + i64::from(n));
                    running.next += i64::from(n);
                }
            }
            Step::Commit(who) => {
                if let Some(next) = self.running[who].as_ref().map(|running| running.next) {
                    self.commit(who, next, false);
                }
            }
            Step::CommitLandsLate(who) => {
                if let Some(first) = self.running[who].as_ref().and_then(|running| running.first_commit) {
                    self.commit(who, first, false);
                }
            }
            Step::Release(who) => {
                if let Some(next) = self.running[who].as_ref().map(|running| running.next) {
                    self.commit(who, next, true);
                    self.running[who] = None;
                }
            }
            Step::Tombstone(who) => {
                let Some(running) = self.running[who].clone().filter(|running| running.committed) else {
                    return;
                };
                let older = self.topic.fold().slot(&slot()).map(|state| state.stale_tokens(running.token));
                for token in older.unwrap_or_default() {
                    self.append(Key::Commit(slot(), token), None);
                }
            }
            Step::Crash(who) => self.running[who] = None,
            Step::Compact(share) => self.topic.compact(self.topic.end * i64::from(share) / 255),
            Step::DropTombstones(share) => {
                self.topic.drop_tombstones(self.topic.end * i64::from(share) / 255)
            }
            Step::Foreign(above, offset) => {
                // Beyond the end of what is written here: a token that a later claim gets is real.
                let token = self.topic.end + 1_000 + i64::from(above);
                let commit = Commit::new(10_000 + i64::from(offset), Uuid::nil(), above % 2 == 0);
                self.append(Key::Commit(slot(), token), Some(serde_json::to_vec(&commit).unwrap()));
            }
            Step::Garbage => {
                self.topic.append(b"g/t/0/nonsense".to_vec(), Some(b"{".to_vec()));
                self.whole.append(b"g/t/0/nonsense".to_vec(), Some(b"{".to_vec()));
            }
        }
    }

    fn check(&self) {
        let (compacted, whole) = (self.topic.fold(), self.whole.fold());
        let view = |fold: &Fold| {
            fold.slot(&slot()).map(|state| (state.owner().map(|owner| owner.token), state.position()))
        };
        assert_eq!(view(&compacted), view(&whole), "compaction changed what the log says");
        let Some((owner, position)) = view(&whole) else { return };
        assert_eq!(owner, self.latest_claim, "the latest claim owns");
        for offset in 0..position.unwrap_or(0) {
            assert!(
                self.handled.contains(&offset),
                "offset {offset} is below the position and was never handled"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_the_invariants(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}

/// The design that SPEC's token in the key avoids: one commit key for all owners. The model must catch it.
#[test]
fn the_model_catches_a_commit_key_without_token() {
    let mut fold = Fold::default();
    let id = Uuid::nil();
    let token_less = |offset| OffsetsRecord::Commit(slot(), 0, Some(Commit::new(offset, id, false)));
    fold.apply(10, token_less(500)).unwrap();
    fold.apply(11, token_less(100)).unwrap();
    assert_eq!(fold.slot(&slot()).unwrap().position(), Some(100), "the late commit of a fenced owner wins");
}
