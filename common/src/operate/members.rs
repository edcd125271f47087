//! The members of a group: which instances live, what each has, and what it is to have.
//!
//! As with owners, a record of the past does not say whether its writer still lives. Members are watched until each
//! was seen to renew its record, which takes a third of a lease, or was silent for its lease; as there, nobody is
//! called dead by what was read before that lease had passed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::kafka::KafkaError;
use crate::offsets::assignor::Holder;
use crate::offsets::roster::Roster;
use crate::offsets::{Member, MemberLife, OffsetsLog, View};
use crate::time::format_time;

/// How long between two looks at who has gone silent.
const LOOK: Duration = Duration::from_millis(500);

/// An instance of a group that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberRow {
    /// The group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// Where it runs.
    pub host: String,
    /// The instance.
    pub instance_id: Uuid,
    /// When it joined, by its clock.
    pub joined_at: String,
    /// Whether it renewed its record while we looked; where not, it may be dead.
    pub is_alive: bool,
    /// Whether it makes progress, and can be given partitions.
    pub accepts: bool,
    /// The partitions that it has.
    pub partitions: Vec<i32>,
    /// Those that it is to have.
    pub targets: Vec<i32>,
}

/// Reads the topic to its end, and returns when it is known of each member of the wanted groups whether it lives, or
/// when the limit has passed.
pub async fn watch_members(
    offsets: &OffsetsLog,
    limit: Duration,
    group: Option<&str>,
) -> Result<(), KafkaError> {
    let end = Instant::now() + limit;
    let mut view = offsets.view();
    let mut is_fresh = false;
    loop {
        let lives = lives(&view.borrow_and_update(), group);
        if lives.contains(&MemberLife::Unknown) && Instant::now() < end {
            let _ = timeout_at(end.min(Instant::now() + LOOK), view.changed()).await;
            is_fresh = false;
        } else if lives.contains(&MemberLife::Dead) && !is_fresh {
            offsets.catch_up().await?;
            is_fresh = true;
        } else {
            return Ok(());
        }
    }
}

fn lives(view: &View, group: Option<&str>) -> Vec<MemberLife> {
    let now = Instant::now();
    let of_group = |group: String| {
        let life = |(id, member): (Uuid, &Member)| view.member_life(&group, id, member.lease(), now);
        view.fold.members(&group).map(life).collect::<Vec<_>>()
    };
    groups(view, group).into_iter().flat_map(of_group).collect()
}

fn groups(view: &View, group: Option<&str>) -> BTreeSet<String> {
    match group {
        Some(group) => BTreeSet::from([group.to_owned()]),
        None => view.fold.slots().map(|(slot, _)| slot.group.clone()).collect(),
    }
}

/// The living members of a group, or of all, by what the view says now; `partitions` says how many a topic has.
pub fn members(view: &View, group: Option<&str>, partitions: impl Fn(&str) -> i32) -> Vec<MemberRow> {
    let now = Instant::now();
    let mut rows = Vec::new();
    for group in groups(view, group) {
        let topics = view.fold.slots().filter(|(slot, _)| slot.group == group);
        for topic in topics.map(|(slot, _)| slot.topic.clone()).collect::<BTreeSet<_>>() {
            let roster = Roster::of(view, &group, &topic, partitions(&topic), None, now);
            for (id, member) in view.fold.members(&group) {
                if !roster.members.contains_key(&id) {
                    continue;
                }
                rows.push(MemberRow {
                    group: group.clone(),
                    topic: topic.clone(),
                    host: member.host.clone(),
                    instance_id: id,
                    joined_at: format_time(member.joined_at),
                    is_alive: view.member_life(&group, id, member.lease(), now) == MemberLife::Alive,
                    accepts: member.accepts,
                    partitions: numbers(roster.holders.iter().map(|holder| *holder == Holder::Member(id))),
                    targets: numbers(roster.targets.iter().map(|target| *target == Some(id))),
                });
            }
        }
    }
    rows
}

fn numbers(are: impl Iterator<Item = bool>) -> Vec<i32> {
    (0..).zip(are).filter(|(_, is)| *is).map(|(number, _)| number).collect()
}
