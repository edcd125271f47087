//! `taskctl offsets`: moves a group to another position.

mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};
use task_events::config::{group_name, topic_name};
use task_events::error_code::Code;
use task_events::kafka::{KafkaError, OffsetAt};
use task_events::offsets::{OffsetsLog, Slot};
use task_events::operate::groups::{Life, SlotReport, lease, short, watch};
use task_events::operate::scan::{LogRange, log_range};
use task_events::shutdown;

use self::moves::{Move, TREES, execute};
use crate::output::{self, cell, table};
use crate::{Context, Error};

/// What to do with offsets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set where a stopped group reads next; a dry run without --execute
    ///
    /// A service does not handle again what it remembers as handled: to have events repeated, remove its
    /// state (the dedup state of the notification service, the log of the audit service) as well.
    Reset(Reset),
}

/// Which offsets to set, and to what.
#[derive(Debug, Args)]
pub struct Reset {
    /// The consumer group
    #[arg(value_parser = group_name)]
    group: String,
    /// Where to read next: earliest, latest, an offset, or an RFC 3339 time for the first record at or
    /// after it [with --forget-trees, default: where the group is]
    #[arg(long, value_name = "earliest|latest|OFFSET|TIME", value_parser = target, required_unless_present = "forget_trees")]
    to: Option<Target>,
    /// Only this topic [default: all that the group reads]
    #[arg(long, value_parser = topic_name)]
    topic: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Remove what Kafka has of the trees of audit logs, their anchors: `taskctl audit verify --kafka` knows of none then
    #[arg(long)]
    forget_trees: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

/// Where to read next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Earliest,
    Latest,
    Offset(i64),
    Time(DateTime<Utc>),
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "earliest" => return Ok(Target::Earliest),
        "latest" => return Ok(Target::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse::<u64>() {
        return i64::try_from(offset)
            .map(Target::Offset)
            .map_err(|_| format!("offset {offset} is too large"));
    }
    match DateTime::parse_from_rfc3339(text) {
        // Kafka has other meanings for negative times.
        Ok(time) if time.timestamp_millis() < 0 => Err("a time before 1970".to_owned()),
        Ok(time) => Ok(Target::Time(time.to_utc())),
        Err(_) => {
            Err("not earliest, latest, an offset or an RFC 3339 time such as 2026-01-15T10:30:00Z".to_owned())
        }
    }
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    group: String,
    executed: bool,
    partitions: Vec<Move>,
}

/// The anchors that the last commit of a partition carries, by the origins of their trees.
fn trees(offsets: &OffsetsLog, slot: &Slot) -> Map<String, Value> {
    let view = offsets.view();
    let view = view.borrow();
    let commit = view.slot(slot).and_then(|state| Some(state.last_commit()?.1));
    commit.and_then(|commit| commit.meta.get(TREES)?.as_object().cloned()).unwrap_or_default()
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), Error> {
    let Command::Reset(args) = command;
    let offsets = context.offsets().await?;
    // A plan is no promise, and needs no look at who lives.
    let known = watch(&offsets, Some(Duration::ZERO), |slot| slot.group == args.group).await?;
    let mut moves = plan(context, &args, &known).await?;
    if args.forget_trees {
        for each in &mut moves {
            each.forgotten_trees = trees(&offsets, &each.slot);
        }
    }
    if args.execute {
        refuse_live_group(&offsets, &args.group, &known).await?;
        let shutdown = shutdown::on_signals()?;
        execute(&offsets, &mut moves, args.forget_trees, &shutdown).await?;
        if args.to.is_some() {
            mirror(context, &args.group, &moves).await;
        }
    }
    let answer = Answer { group: args.group, executed: args.execute, partitions: moves };
    output::write(context.format, &answer, text)?;
    Ok(())
}

fn text(answer: &Answer) -> String {
    let cells = answer.partitions.iter().map(|row| {
        [
            row.topic.clone(),
            row.partition.to_string(),
            cell(row.from),
            row.to.map_or_else(|| "removed".to_owned(), |to| to.to_string()),
        ]
    });
    let mut text = table(["TOPIC", "PARTITION", "FROM", "TO"], cells);
    for row in &answer.partitions {
        for (origin, anchor) in &row.forgotten_trees {
            text.push_str(&format!("{}/{} forgets the tree {origin}: {anchor}\n", row.topic, row.partition));
        }
    }
    if !answer.executed {
        text.push_str("Nothing was changed: this is a dry run. Stop the group, then add --execute.\n");
    }
    text
}

/// Which partitions are to be moved, from where to where.
async fn plan(
    context: &Context,
    args: &Reset,
    known: &BTreeMap<Slot, SlotReport>,
) -> Result<Vec<Move>, Error> {
    let topics: BTreeSet<String> = match &args.topic {
        Some(topic) => BTreeSet::from([topic.clone()]),
        None => known.keys().map(|slot| slot.topic.clone()).collect(),
    };
    if topics.is_empty() {
        return Err(Error::Refused(
            Code::UnknownGroup,
            format!(
                "topic {} knows no group {}: see `taskctl groups list`; for a group that has not run yet, say --topic",
                context.topics.offsets_topic, args.group
            ),
        ));
    }
    let Some(target) = &args.to else {
        let moves = staying(args, known);
        let nothing = || format!("group {} has no position there: see `taskctl groups describe`", args.group);
        return if moves.is_empty() { Err(Error::Refused(Code::CannotMove, nothing())) } else { Ok(moves) };
    };
    let mut moves = Vec::new();
    for topic in topics {
        let count = match context.kafka.partition_count(&topic).await {
            Err(KafkaError::UnknownTopic { .. }) if args.topic.is_none() => 0,
            count => count?,
        };
        if args.partition.is_none() {
            moves.extend(gone(known, &topic, count));
        }
        let partitions = partitions(&topic, count, args.partition)?;
        let topic_id = match partitions.is_empty() {
            true => None,
            false => Some(context.kafka.topic(&topic).await?.id).filter(|id| !id.is_nil()),
        };
        for partition in partitions {
            let slot = Slot { group: args.group.clone(), topic: topic.clone(), partition };
            let from = known.get(&slot).and_then(|report| report.position);
            let range = log_range(&context.kafka, &topic, partition).await?;
            let at_time = match target {
                Target::Time(time) => {
                    let at = OffsetAt::Time(time.timestamp_millis());
                    Some(context.kafka.list_offset(&topic, partition, at).await?)
                }
                _ => None,
            };
            let to = destination(target, range, at_time).map_err(|why| {
                Error::Refused(Code::CannotMove, format!("cannot reset {topic}/{partition}: {why}"))
            })?;
            moves.push(Move::new(slot, from, Some(to), topic_id));
        }
    }
    Ok(moves)
}

/// What of the group stays where it is, and forgets trees: also what it has of topics that are no more.
fn staying(args: &Reset, known: &BTreeMap<Slot, SlotReport>) -> Vec<Move> {
    let is_named = |slot: &Slot| {
        args.topic.as_ref().is_none_or(|topic| *topic == slot.topic)
            && args.partition.is_none_or(|partition| partition == slot.partition)
    };
    let named = known.iter().filter(|(slot, _)| is_named(slot));
    named.filter_map(|(slot, report)| Some(Move::staying(slot.clone(), report.position?))).collect()
}

/// What the group holds of partitions that are no more: it would bind the group to its service for ever.
fn gone<'a>(
    known: &'a BTreeMap<Slot, SlotReport>,
    topic: &'a str,
    count: i32,
) -> impl Iterator<Item = Move> + 'a {
    let gone = known.iter().filter(move |(slot, _)| slot.topic == topic && slot.partition >= count);
    gone.map(|(slot, report)| Move::new(slot.clone(), report.position, None, None))
}

fn partitions(topic: &str, count: i32, wanted: Option<i32>) -> Result<Vec<i32>, Error> {
    match wanted {
        None => Ok((0..count).collect()),
        Some(partition) if partition < count => Ok(vec![partition]),
        Some(partition) => Err(Error::Refused(
            Code::UnknownPartition,
            format!("topic {topic} has {count} partitions, counted from 0, and none with number {partition}"),
        )),
    }
}

/// The offset that the target means in a log of that range.
fn destination(target: &Target, range: LogRange, at_time: Option<i64>) -> Result<i64, String> {
    let LogRange { start, end } = range;
    match target {
        Target::Earliest => Ok(start),
        Target::Latest => Ok(end),
        // No record is as late: the next one to come is.
        Target::Time(_) => Ok(at_time.filter(|offset| *offset >= 0).unwrap_or(end)),
        Target::Offset(offset) if (start..=end).contains(offset) => Ok(*offset),
        Target::Offset(offset) => Err(format!("offset {offset} is out of range, which is {start} to {end}")),
    }
}

/// Watches the owners for as long as their leases last.
async fn refuse_live_group(
    offsets: &OffsetsLog,
    group: &str,
    known: &BTreeMap<Slot, SlotReport>,
) -> Result<(), Error> {
    let unreleased = known.values().filter(|report| report.life == Life::Unknown);
    if let Some(owner) =
        unreleased.filter_map(|report| report.owner.as_ref()).max_by_key(|owner| lease(owner))
    {
        let seconds = lease(owner).as_secs_f32();
        log::info!("{} has not released: watching for a sign of life for {seconds} s", short(owner));
    }
    let now = watch(offsets, None, |slot| slot.group == group).await?;
    match alive(&now) {
        Some(why) => {
            Err(Error::Refused(Code::GroupLive, format!("group {group} is live: {why}; stop it first")))
        }
        None => Ok(()),
    }
}

/// Who may be alive, if anybody may.
fn alive(slots: &BTreeMap<Slot, SlotReport>) -> Option<String> {
    slots.iter().find_map(|(slot, report)| {
        let owner = report.owner.as_ref().map(short).unwrap_or_default();
        match report.life {
            Life::Unclaimed | Life::Released | Life::Silent => None,
            Life::Active(_) => Some(format!("{owner} owns {}/{}", slot.topic, slot.partition)),
            Life::Unknown => Some(format!("{owner} may own {}/{} still", slot.topic, slot.partition)),
        }
    })
}

/// Tells Kafka's group coordinator, for dashboards. What counts is done.
async fn mirror(context: &Context, group: &str, moves: &[Move]) {
    let mut topics = BTreeMap::<&str, Vec<(i32, i64)>>::new();
    for each in moves {
        if let Some(to) = each.to {
            topics.entry(&each.topic).or_default().push((each.partition, to));
        }
    }
    let outcome: Result<(), KafkaError> = async {
        let mut coordinator = context.kafka.admin().coordinator(group).await?;
        for (topic, positions) in topics {
            coordinator.commit(topic, &positions).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = outcome {
        log::warn!("Kafka's own tools show the old offsets until the group runs again: {error}");
    }
}

#[cfg(test)]
mod tests;
