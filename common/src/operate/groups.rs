//! What the offsets topic says of consumer groups, and whether their owners are alive.
//!
//! A record of the past does not say whether its writer still lives, and wall clocks of other machines are
//! no measure. So an owner is watched as a standby would watch it: a record that comes while we look is a
//! sign of life (an owner writes one at least every third of its lease, also when idle); none for a whole
//! lease is silence, and the next instance may take over. Nobody is called silent unless all was read that was in
//! the topic when its lease had passed: what this process knows may be as old as its last pause.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kafka::{KafkaError, REQUEST_TIMEOUT};
use crate::offsets::fold::{Owner, SlotState};
use crate::offsets::{Commit, OffsetsLog, Slot, View};
use tokio::time::{Instant, timeout_at};

/// What is known of one partition of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReport {
    /// The offset to read next; `None` where nothing was committed.
    pub position: Option<i64>,
    /// Who claimed it last.
    pub owner: Option<Owner>,
    /// Whether that owner lives.
    pub life: Life,
}

/// Whether an owner lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// There is none.
    Unclaimed,
    /// It said that it stopped.
    Released,
    /// It gave a sign of life at that time, while we looked.
    Active(Instant),
    /// It gave none for its whole lease.
    Silent,
    /// It gave none so far, and we did not look for its whole lease.
    Unknown,
}

impl Life {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unclaimed => "unclaimed",
            Self::Released => "released",
            Self::Active(_) => "active",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }

    /// One word for several partitions: alive if any is.
    pub fn of_all(lives: impl IntoIterator<Item = Self>) -> Self {
        let rank = |life: &Self| match life {
            Self::Unclaimed => 0,
            Self::Released => 1,
            Self::Silent => 2,
            Self::Unknown => 3,
            Self::Active(_) => 4,
        };
        lives.into_iter().max_by_key(rank).unwrap_or(Self::Unclaimed)
    }
}

/// Reads the topic to its end and watches the owners of the wanted slots until the life of each is known,
/// or until `limit` has passed. Without a limit that is the longest lease.
pub async fn watch(
    offsets: &OffsetsLog,
    limit: Option<Duration>,
    wanted: impl Fn(&Slot) -> bool,
) -> Result<BTreeMap<Slot, SlotReport>, KafkaError> {
    offsets.catch_up().await?;
    let mut view = offsets.view();
    let wanted_of = |view: &View| {
        let slots = view.fold.slots().filter(|(slot, _)| wanted(slot));
        slots.map(|(slot, state)| (slot.clone(), state.clone())).collect::<BTreeMap<_, _>>()
    };
    let first = wanted_of(&view.borrow());
    // Where Kafka cannot be reached, silence says nothing and does not count: that has to end, too.
    let longest = first.values().filter_map(SlotState::owner).map(lease).max().unwrap_or_default();
    let end = Instant::now() + limit.unwrap_or(longest + REQUEST_TIMEOUT);
    let mut is_fresh = false;
    loop {
        let now = Instant::now();
        let (reports, next) = {
            let view = view.borrow_and_update();
            let mut reports = BTreeMap::new();
            let mut next = None::<Instant>;
            for (slot, state) in wanted_of(&view) {
                let silent_since = view.silent_since(&slot, now);
                let life = life(first.get(&slot), &state, silent_since, now);
                if life == Life::Unknown {
                    let expires = silent_since.zip(state.owner()).map(|(since, owner)| since + lease(owner));
                    let look_again = expires.unwrap_or(end).min(next.unwrap_or(end));
                    next = Some(look_again);
                }
                let (position, owner) = (state.position(), state.owner().cloned());
                reports.insert(slot, SlotReport { position, owner, life });
            }
            if let (Some(_), Some(failure), true) = (next, &view.failure, now >= end) {
                return Err(failure.clone());
            }
            (reports, next)
        };
        match next {
            Some(next) if now < end => {
                // Whatever comes first: a record, or the end of a lease.
                let _ = timeout_at(next.min(end), view.changed()).await;
                is_fresh = false;
            }
            _ if !is_fresh && reports.values().any(|report| report.life == Life::Silent) => {
                offsets.catch_up().await?;
                is_fresh = true;
            }
            _ => return Ok(reports),
        }
    }
}

/// Whether the owner of a slot lives, from what was known of it `first` and what is known `now`.
pub fn life(
    first: Option<&SlotState>,
    state: &SlotState,
    silent_since: Option<Instant>,
    now: Instant,
) -> Life {
    let Some(owner) = state.owner() else { return Life::Unclaimed };
    if state.is_released() {
        return Life::Released;
    }
    match silent_since {
        Some(since) if now >= since + lease(owner) => Life::Silent,
        _ if first.map(sign) != Some(sign(state)) => Life::Active(silent_since.unwrap_or(now)),
        _ => Life::Unknown,
    }
}

/// The owner's last record: another one is a sign of life. Commits of older owners are none.
fn sign(state: &SlotState) -> Option<(i64, Option<&Commit>)> {
    let token = state.owner()?.token;
    Some((token, state.last_commit().filter(|(by, _)| *by == token).map(|(_, commit)| commit)))
}

/// How long an owner may be silent.
pub fn lease(owner: &Owner) -> Duration {
    Duration::from_millis(owner.claim.lease_ms)
}

/// An owner for a table: its host and the start of its instance's id.
pub fn short(owner: &Owner) -> String {
    let id = owner.claim.instance_id.to_string();
    format!("{}/{}", owner.claim.host, id.split('-').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::fold::Fold;
    use crate::offsets::{Claim, OffsetsRecord};
    use uuid::Uuid;

    fn slot() -> Slot {
        Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 }
    }

    fn states(records: Vec<(i64, OffsetsRecord)>) -> Vec<SlotState> {
        let mut fold = Fold::default();
        let mut states = Vec::new();
        for (offset, record) in records {
            fold.apply(offset, record).unwrap();
            states.push(fold.slot(&slot()).unwrap().clone());
        }
        states
    }

    fn claim(lease_ms: u64) -> OffsetsRecord {
        OffsetsRecord::Claim(slot(), Some(Claim::new(Uuid::new_v4(), "host", lease_ms)))
    }

    fn commit(token: i64, released: bool) -> OffsetsRecord {
        OffsetsRecord::Commit(slot(), token, Some(Commit::new(7, Uuid::new_v4(), released)))
    }

    #[test]
    fn an_owner_lives_when_it_writes_and_is_silent_after_its_lease() {
        let states = states(vec![
            (0, claim(1_000)),
            (1, commit(0, false)),
            (2, commit(0, false)),
            (3, claim(1_000)),
            (4, commit(0, false)),
            (5, commit(3, true)),
        ]);
        let since = Instant::now();
        let at = |ms| since + Duration::from_millis(ms);
        let life = |first: Option<usize>, state: usize, now| {
            life(first.map(|first| &states[first]), &states[state], Some(since), now)
        };
        assert_eq!(life(Some(1), 1, at(999)), Life::Unknown);
        assert_eq!(life(Some(1), 1, at(1_000)), Life::Silent);
        assert_eq!(life(Some(1), 2, at(1)), Life::Active(since), "a commit");
        assert_eq!(life(Some(2), 3, at(1)), Life::Active(since), "a claim");
        assert_eq!(life(None, 0, at(1)), Life::Active(since), "a new slot");
        assert_eq!(life(Some(3), 4, at(999)), Life::Unknown, "a late commit of an older owner");
        assert_eq!(life(Some(3), 4, at(1_000)), Life::Silent);
        assert_eq!(life(Some(3), 5, at(1)), Life::Released);
    }

    #[test]
    fn out_of_touch_with_kafka_nobody_is_called_silent() {
        let states = states(vec![(0, claim(1))]);
        let hour = Instant::now() + Duration::from_secs(3_600);
        assert_eq!(life(states.first(), &states[0], None, hour), Life::Unknown);
    }

    #[test]
    fn a_group_lives_if_any_of_its_owners_does() {
        let active = Life::Active(Instant::now());
        assert_eq!(Life::of_all([Life::Released, active, Life::Silent]), active);
        assert_eq!(Life::of_all([Life::Released, Life::Silent]), Life::Silent);
        assert_eq!(Life::of_all([]), Life::Unclaimed);
    }
}
