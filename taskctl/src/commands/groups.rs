//! `taskctl groups`: the consumer groups, how far they are, and who owns their partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use task_events::config::group_name;
use task_events::kafka::KafkaError;
use task_events::offsets::{OffsetsLog, Slot};
use task_events::operate::groups::{Life, watch};
use task_events::operate::members::{MemberRow, members, watch_members};
use task_events::operate::partitions::{PartitionRow, add_unclaimed};
use task_events::operate::scan::log_range;

use crate::output::{self, cell, table};
use crate::{Context, Error};

/// What to show of the groups.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the groups: whether they are active, released or silent, and how far behind
    List(Wait),
    /// Show how far a group, or each, is in each partition, and who owns it
    Describe(Describe),
}

/// How long to watch.
#[derive(Debug, Args)]
pub struct Wait {
    /// Watch owners for up to this many seconds for a sign of life; an idle one gives it every third of
    /// its lease. Who was not watched for its whole lease is shown as unknown
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = clap::value_parser!(u64).range(..=3_700))]
    wait: u64,
}

impl Wait {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

/// The columns of a group's partitions.
const HEADER: [&str; 8] =
    ["TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-START-OFFSET", "LOG-END-OFFSET", "LAG", "OWNER", "LEASE"];

/// Which group to show.
#[derive(Debug, Args)]
pub struct Describe {
    /// The consumer group [default: all]
    #[arg(value_parser = group_name)]
    group: Option<String>,
    /// Show the living instances of the group instead: what each has, and what it is to have
    #[arg(long)]
    members: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::List(wait) => list(context, &wait).await,
        Command::Describe(args) => describe(context, &args).await,
    }
}

/// A group as it is listed.
#[derive(Debug, Serialize)]
pub(super) struct GroupRow {
    pub(super) group: String,
    pub(super) state: &'static str,
    topics: BTreeSet<String>,
    partitions: usize,
    /// Events to read, in all partitions that exist.
    pub(super) lag: i64,
    owners: BTreeSet<String>,
}

async fn list(context: &Context, wait: &Wait) -> Result<(), Error> {
    let rows = group_rows(context, &context.offsets().await?, wait.limit()).await?;
    output::write(context.format, &rows, |rows| list_text(rows))?;
    Ok(())
}

/// All groups, watched for that long.
pub(super) async fn group_rows(
    context: &Context,
    offsets: &OffsetsLog,
    wait: Duration,
) -> Result<Vec<GroupRow>, Error> {
    let mut groups = BTreeMap::<String, Vec<PartitionRow>>::new();
    for row in partition_rows(context, offsets, wait, None).await? {
        groups.entry(row.group.clone()).or_default().push(row);
    }
    let row = |(group, rows): (String, Vec<PartitionRow>)| GroupRow {
        group,
        state: Life::of_all(rows.iter().map(|row| row.life)).as_str(),
        topics: rows.iter().map(|row| row.topic.clone()).collect(),
        partitions: rows.len(),
        lag: rows.iter().filter_map(|row| row.lag).sum(),
        owners: rows.iter().filter_map(|row| row.owner.as_ref()).map(|owner| owner.short.clone()).collect(),
    };
    Ok(groups.into_iter().map(row).collect())
}

pub(super) fn list_text(rows: &[GroupRow]) -> String {
    let join = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
    let cells = rows.iter().map(|row| {
        [
            row.group.clone(),
            row.state.to_owned(),
            join(&row.topics),
            row.partitions.to_string(),
            row.lag.to_string(),
            cell(Some(join(&row.owners)).filter(|owners| !owners.is_empty())),
        ]
    });
    table(["GROUP", "STATE", "TOPICS", "PARTITIONS", "LAG", "OWNERS"], cells)
}

async fn describe(context: &Context, args: &Describe) -> Result<(), Error> {
    let group = args.group.as_deref();
    let offsets = context.offsets().await?;
    if args.members {
        return describe_members(context, &offsets, args).await;
    }
    let rows = partition_rows(context, &offsets, args.wait.limit(), group).await?;
    if let Some(group) = group.filter(|_| rows.is_empty()) {
        return Err(context.unknown_group(group));
    }
    output::write(context.format, &rows, |rows| match group {
        Some(_) => table(HEADER, rows.iter().map(cells)),
        None => {
            let [topic, partition, current, start, end, lag, owner, lease] = HEADER;
            let header = ["GROUP", topic, partition, current, start, end, lag, owner, lease];
            let with_group = |row: &PartitionRow| {
                let [topic, partition, current, start, end, lag, owner, lease] = cells(row);
                [row.group.clone(), topic, partition, current, start, end, lag, owner, lease]
            };
            table(header, rows.iter().map(with_group))
        }
    })?;
    Ok(())
}

/// A group's instances, once it is known of each whether it lives.
async fn describe_members(context: &Context, offsets: &OffsetsLog, args: &Describe) -> Result<(), Error> {
    let group = args.group.as_deref();
    offsets.catch_up().await?;
    watch_members(offsets, args.wait.limit(), group).await?;
    let counts = context.kafka.topics().await?;
    let rows = {
        let view = offsets.view();
        let view = view.borrow();
        if let Some(group) = group
            && !view.fold.slots().any(|(slot, _)| slot.group == group)
        {
            return Err(context.unknown_group(group));
        }
        members(&view, group, |topic| counts.get(topic).copied().unwrap_or(0))
    };
    output::write(context.format, &rows, |rows| {
        let header = ["GROUP", "TOPIC", "INSTANCE", "ALIVE", "ACCEPTS", "PARTITIONS", "TARGET", "JOINED"];
        table(header, rows.iter().map(member_cells))
    })?;
    Ok(())
}

fn member_cells(row: &MemberRow) -> [String; 8] {
    let yes = |is: bool, no: &str| if is { "yes" } else { no }.to_owned();
    let list = |numbers: &[i32]| {
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        cell(Some(numbers.join(",")).filter(|numbers| !numbers.is_empty()))
    };
    let id = row.instance_id.to_string();
    [
        row.group.clone(),
        row.topic.clone(),
        format!("{}/{}", row.host, id.split('-').next().unwrap_or_default()),
        yes(row.is_alive, "unknown"),
        yes(row.accepts, "no"),
        list(&row.partitions),
        list(&row.targets),
        row.joined_at.clone(),
    ]
}

/// Each partition of one group, or of all, watched for that long.
async fn partition_rows(
    context: &Context,
    offsets: &OffsetsLog,
    wait: Duration,
    group: Option<&str>,
) -> Result<Vec<PartitionRow>, Error> {
    let is_wanted = |slot: &Slot| group.is_none_or(|group| slot.group == group);
    let mut slots = watch(offsets, Some(wait), is_wanted).await?;
    let counts = context.kafka.topics().await?;
    add_unclaimed(&mut slots, |topic| counts.get(topic).copied().unwrap_or(0));
    let mut rows = Vec::new();
    for (slot, report) in slots {
        let range = match log_range(&context.kafka, &slot.topic, slot.partition).await {
            Ok(range) => Some(range),
            // The group has outlived its topic, or this partition of it.
            Err(KafkaError::UnknownTopic { .. } | KafkaError::UnknownPartition { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        rows.push(PartitionRow::new(slot, &report, range));
    }
    Ok(rows)
}

fn cells(row: &PartitionRow) -> [String; 8] {
    let lease = match (row.state, row.lease_left_ms) {
        ("unknown", _) => Some("unknown".to_owned()),
        (_, Some(0)) => Some("expired".to_owned()),
        (_, Some(left)) => Some(format!("{}.{} s", left / 1_000, left % 1_000 / 100)),
        (_, None) => None,
    };
    [
        row.topic.clone(),
        row.partition.to_string(),
        cell(row.current_offset),
        cell(row.log_start_offset),
        cell(row.log_end_offset),
        cell(row.lag),
        match &row.owner {
            Some(owner) => owner.short.clone(),
            None => cell(Some(row.state).filter(|state| *state == Life::Released.as_str())),
        },
        cell(lease),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_events::offsets::Claim;
    use task_events::offsets::fold::Owner;
    use task_events::operate::groups::SlotReport;
    use task_events::operate::scan::LogRange;
    use tokio::time::Instant;
    use uuid::Uuid;

    fn slot() -> Slot {
        Slot { group: "g".to_owned(), topic: "t".to_owned(), partition: 2 }
    }

    fn report(position: Option<i64>, life: Life) -> SlotReport {
        let claim = Claim::new(Uuid::nil(), "host", 10_000);
        SlotReport { position, owner: Some(Owner { token: 3, claim }), life }
    }

    #[test]
    fn a_line_says_how_far_the_group_is_and_who_owns() {
        let range = Some(LogRange { start: 5, end: 12 });
        let line = |position, life, range| {
            cells(&PartitionRow::new(slot(), &report(position, life), range)).join(" ")
        };
        let future = Instant::now() + Duration::from_millis(50);
        assert_eq!(line(Some(10), Life::Active(future), range), "t 2 10 5 12 2 host/00000000 10.0 s");
        assert_eq!(line(Some(10), Life::Silent, range), "t 2 10 5 12 2 host/00000000 expired");
        assert_eq!(line(Some(10), Life::Unknown, range), "t 2 10 5 12 2 host/00000000 unknown");
        assert_eq!(line(Some(12), Life::Released, range), "t 2 12 5 12 0 released -");
        assert_eq!(
            line(None, Life::Released, range),
            "t 2 - 5 12 7 released -",
            "it will read from the start"
        );
        assert_eq!(line(Some(3), Life::Released, None), "t 2 3 - - - released -", "the topic is gone");
    }
}
