//! `taskctl topics describe`: what each partition of a topic has, who keeps it, and how the topic is configured.

use clap::Args;
use serde::Serialize;
use task_events::config::topic_name;
use task_events::operate::scan::log_range;
use task_events::topics::Topics;

use super::differences::{Difference, differences};
use crate::output::{self, cell, table};
use crate::{Context, Error};

/// Which topics.
#[derive(Debug, Args)]
pub struct Describe {
    /// The topics [default: the three of task-events]
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    topics: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Described {
    topic: String,
    topic_id: String,
    partitions: Vec<Partition>,
    /// The configs that the contract fixes, for the three topics of task-events.
    configs: Vec<Config>,
    /// Where one differs from what `topics create` would have made.
    differences: Vec<Difference>,
}

#[derive(Debug, Serialize)]
struct Config {
    name: String,
    value: Option<String>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    log_start_offset: Option<i64>,
    log_end_offset: Option<i64>,
}

pub(super) async fn run(context: &Context, args: Describe) -> Result<(), Error> {
    let names = &context.topics;
    let default =
        || vec![names.task_events_topic.clone(), names.offsets_topic.clone(), names.dlq_topic.clone()];
    let topics = if args.topics.is_empty() { default() } else { args.topics };
    let mut described = Vec::new();
    for topic in &topics {
        described.push(describe(context, topic).await?);
    }
    output::write(context.format, &described, |described| {
        described.iter().map(text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(())
}

async fn describe(context: &Context, topic: &str) -> Result<Described, Error> {
    let info = context.kafka.topic(topic).await?;
    let mut partitions = Vec::new();
    for partition in &info.partitions {
        // A partition without a leader cannot say; the others can.
        let range = log_range(&context.kafka, topic, partition.id).await.ok();
        partitions.push(Partition {
            partition: partition.id,
            leader: partition.leader,
            replicas: partition.replicas.clone(),
            in_sync: partition.isr.clone(),
            log_start_offset: range.map(|range| range.start),
            log_end_offset: range.map(|range| range.end),
        });
    }
    let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    // Any number of partitions of the events is as good.
    let wanted = Topics::new(&context.topics, count, -1);
    let wanted = [wanted.events, wanted.offsets, wanted.dlq].into_iter().find(|wanted| wanted.name == topic);
    let (mut configs, mut differing) = (Vec::new(), Vec::new());
    if let Some(wanted) = wanted {
        for (name, _) in &wanted.configs {
            let value = context.kafka.admin().topic_config(topic, name).await?;
            configs.push(Config { name: name.clone(), value });
        }
        differing = differences(context, &wanted, count).await?;
    }
    Ok(Described {
        topic: topic.to_owned(),
        topic_id: info.id.to_string(),
        partitions,
        configs,
        differences: differing,
    })
}

fn text(described: &Described) -> String {
    let ids = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let configs =
        described.configs.iter().map(|config| format!("{}={}", config.name, cell(config.value.as_ref())));
    let mut text = format!("{}  {}\n", described.topic, configs.collect::<Vec<_>>().join(" "));
    for Difference { what, is, wanted } in &described.differences {
        text.push_str(&format!("{what} is {is}, and should be {wanted}\n"));
    }
    let rows = described.partitions.iter().map(|partition| {
        let records =
            partition.log_start_offset.zip(partition.log_end_offset).map(|(start, end)| end - start);
        [
            partition.partition.to_string(),
            partition.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            ids(&partition.replicas),
            ids(&partition.in_sync),
            cell(partition.log_start_offset),
            cell(partition.log_end_offset),
            cell(records),
        ]
    });
    let header =
        ["PARTITION", "LEADER", "REPLICAS", "IN-SYNC", "LOG-START-OFFSET", "LOG-END-OFFSET", "OFFSETS"];
    text.push_str(&table(header, rows));
    text
}
