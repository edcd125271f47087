//! `taskctl topics`: makes the topics that task-events needs, and shows them.

mod describe;
pub(super) mod differences;

use clap::{Args, Subcommand};
use serde::Serialize;
use task_events::error_code::Code;
use task_events::kafka::{NewTopic, TopicOutcome};
use task_events::topics::{Topics, is_compacted};

use self::differences::{Difference, differences};
use crate::output::{self, cell, table};
use crate::{Context, Error};

/// What to do with the topics.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the topics of events, offsets and dead letters; what is there already stays as it is
    Create(Create),
    /// Show the partitions of topics, who keeps them, and their configs
    Describe(describe::Describe),
}

/// How to create the topics.
#[derive(Debug, Args)]
pub struct Create {
    /// Partitions of the topic of events; the other two have one
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Replicas of each topic [default: the broker's]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(i16).range(1..=1_000))]
    replication_factor: Option<i16>,
}

/// What became of one topic.
#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partitions: i32,
    outcome: &'static str,
    /// Where a topic that was there already differs from what would have been created.
    differences: Vec<Difference>,
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), Error> {
    let args = match command {
        Command::Create(args) => args,
        Command::Describe(args) => return describe::run(context, args).await,
    };
    // -1 is Kafka's word for the broker's default.
    let topics = Topics::new(&context.topics, args.partitions, args.replication_factor.unwrap_or(-1));
    // The offsets topic first: where it is there and cannot be used, nothing else is made.
    let offsets = create(context, &topics.offsets).await?;
    let events = create(context, &topics.events).await?;
    let dlq = create(context, &topics.dlq).await?;
    let rows = [events, offsets, dlq];
    output::write(context.format, &rows, |rows| text(rows))?;
    Ok(())
}

async fn create(context: &Context, topic: &NewTopic) -> Result<Row, Error> {
    let row = |partitions, outcome, differences| Row {
        topic: topic.name.clone(),
        partitions,
        outcome,
        differences,
    };
    match context.kafka.admin().create_topic(topic).await? {
        TopicOutcome::Created => Ok(row(topic.partitions, "created", Vec::new())),
        TopicOutcome::Existed => {
            if topic.name == context.topics.offsets_topic {
                refuse_unless_compacted(context, &topic.name).await?;
            }
            let partitions = context.kafka.partition_count(&topic.name).await?;
            let differences = differences(context, topic, partitions).await?;
            Ok(row(partitions, "exists", differences))
        }
    }
}

async fn refuse_unless_compacted(context: &Context, topic: &str) -> Result<(), Error> {
    let policy = context.kafka.admin().topic_config(topic, "cleanup.policy").await?;
    let policy = policy.unwrap_or_else(|| "unknown".to_owned());
    if is_compacted(&policy) {
        return Ok(());
    }
    Err(Error::Refused(
        Code::OffsetsTopicForgets,
        format!(
            "topic {topic} has cleanup.policy={policy} and would forget offsets: set it to compact, or name another topic in OFFSETS_TOPIC"
        ),
    ))
}

fn text(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let differences = row.differences.iter().map(|d| format!("{}={} (not {})", d.what, d.is, d.wanted));
        let differences = differences.collect::<Vec<_>>().join(", ");
        let differences = cell(Some(differences).filter(|differences| !differences.is_empty()));
        [row.topic.clone(), row.partitions.to_string(), row.outcome.to_owned(), differences]
    });
    table(["TOPIC", "PARTITIONS", "OUTCOME", "DIFFERENCES"], cells)
}
