//! `taskctl status`: one screen with the API, its outbox, the topics, the groups and the DLQ.
//!
//! A part that cannot be seen says why in its place, and the others are shown. The command then fails, unless it
//! watches: then it goes on.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};
use task_events::error_code::Code;
use task_events::offsets::OffsetsLog;
use task_events::operate::letters::read_all;
use task_events::operate::scan::{LogRange, readable};
use task_events::shutdown;
use task_events::time::format_time;
use tokio::time::sleep;

use super::groups::{GroupRow, group_rows, list_text};
use crate::api::{Api, ApiArgs, Readiness, readiness};
use crate::output::{self, table};
use crate::{Context, Error};

/// How long the owners of groups are watched for a sign of life: an idle one gives it every third of its lease,
/// which is 10 s.
const WATCH_LIMIT: Duration = Duration::from_secs(4);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What to show, and how often.
#[derive(Debug, Args)]
pub struct Status {
    /// Show it again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Seconds between two screens
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    #[command(flatten)]
    api: ApiArgs,
}

/// One screen. Of each part the error, where it cannot be seen.
#[derive(Debug, Serialize)]
struct Screen {
    api: ApiPart,
    #[serde(serialize_with = "seen_or_error")]
    topics: Result<Vec<TopicRow>, String>,
    #[serde(serialize_with = "seen_or_error")]
    groups: Result<Vec<GroupRow>, String>,
    #[serde(serialize_with = "seen_or_error")]
    dlq: Result<DlqPart, String>,
}

/// A part as it is, or `{"error": why}`.
fn seen_or_error<T: Serialize, S: Serializer>(part: &Result<T, String>, to: S) -> Result<S::Ok, S::Error> {
    match part {
        Ok(part) => part.serialize(to),
        Err(error) => BTreeMap::from([("error", error)]).serialize(to),
    }
}

#[derive(Debug, Serialize)]
struct ApiPart {
    address: String,
    error: Option<String>,
    ready: bool,
    kafka_reachable: bool,
    outbox_waiting: u64,
    outbox_oldest_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct TopicRow {
    topic: String,
    partitions: usize,
    /// From the first offset to the last, in all partitions.
    offsets: i64,
}

#[derive(Debug, Clone, Default, Serialize)]
struct DlqPart {
    /// Dead letters that were not redriven.
    open: u64,
    redriven: u64,
    /// The open ones.
    by_group_and_kind: Vec<DlqRow>,
}

#[derive(Debug, Clone, Serialize)]
struct DlqRow {
    group: String,
    kind: String,
    count: u64,
    latest: String,
}

/// What is kept between two screens.
#[derive(Debug, Default)]
struct Kept {
    /// Followed from screen to screen, so that who is silent is known.
    offsets: Option<OffsetsLog>,
    /// The DLQ is read again only where it has changed.
    dlq: Option<(Vec<LogRange>, DlqPart)>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Status) -> Result<(), Error> {
    let mut kept = Kept::default();
    if !args.watch {
        let screen = screen(context, &args.api, &mut kept).await;
        output::write(context.format, &screen, text)?;
        let failures = [screen.topics.err(), screen.groups.err(), screen.dlq.err()];
        return match failures.into_iter().flatten().next() {
            None => Ok(()),
            Some(error) => Err(Error::Refused(Code::NotSeen, format!("not all could be seen: {error}"))),
        };
    }
    let stop = shutdown::on_signals()?;
    loop {
        let Some(screen) = stop.or(screen(context, &args.api, &mut kept)).await else { return Ok(()) };
        if io::stdout().is_terminal() {
            io::stdout().write_all(CLEAR.as_bytes())?;
        }
        output::write(context.format, &screen, text)?;
        if stop.or(sleep(Duration::from_secs(args.interval))).await.is_none() {
            return Ok(());
        }
    }
}

async fn screen(context: &Context, api: &ApiArgs, kept: &mut Kept) -> Screen {
    let api = api_part(api.api()).await;
    let (topics, dlq_ranges) = match topics(context).await {
        Ok(seen) => seen,
        Err(error) => {
            // The others would wait for the same.
            let why = error.to_string();
            return Screen { api, topics: Err(why.clone()), groups: Err(why.clone()), dlq: Err(why) };
        }
    };
    let groups = groups(context, kept).await.map_err(|error| error.to_string());
    let dlq = dlq(context, kept, dlq_ranges).await.map_err(|error| error.to_string());
    Screen { api, topics: Ok(topics), groups, dlq }
}

async fn api_part(api: Api) -> ApiPart {
    let readiness = readiness(&api).await;
    let address = api.address;
    match readiness {
        Ok(Readiness { is_ready, kafka_is_reachable, waiting, oldest, .. }) => ApiPart {
            address,
            error: None,
            ready: is_ready,
            kafka_reachable: kafka_is_reachable,
            outbox_waiting: waiting,
            outbox_oldest_seconds: oldest.map(|age| age.as_secs()),
        },
        Err(error) => ApiPart {
            address,
            error: Some(error.to_string()),
            ready: false,
            kafka_reachable: false,
            outbox_waiting: 0,
            outbox_oldest_seconds: None,
        },
    }
}

/// The topics, and what the DLQ, which is the last, has in each partition.
async fn topics(context: &Context) -> Result<(Vec<TopicRow>, Vec<LogRange>), Error> {
    let names = &context.topics;
    let (mut rows, mut last) = (Vec::new(), Vec::new());
    for topic in [&names.task_events_topic, &names.offsets_topic, &names.dlq_topic] {
        last = ranges(context, topic).await?;
        let offsets = last.iter().map(|range| range.end - range.start).sum();
        rows.push(TopicRow { topic: topic.clone(), partitions: last.len(), offsets });
    }
    Ok((rows, last))
}

async fn ranges(context: &Context, topic: &str) -> Result<Vec<LogRange>, Error> {
    let mut ranges = Vec::new();
    for partition in 0..context.kafka.partition_count(topic).await? {
        ranges.push(readable(&context.kafka, topic, partition).await?);
    }
    Ok(ranges)
}

async fn groups(context: &Context, kept: &mut Kept) -> Result<Vec<GroupRow>, Error> {
    let offsets = match kept.offsets.take() {
        Some(offsets) => offsets,
        None => context.offsets().await?,
    };
    let rows = group_rows(context, &offsets, WATCH_LIMIT).await;
    kept.offsets = Some(offsets);
    rows
}

async fn dlq(context: &Context, kept: &mut Kept, ranges: Vec<LogRange>) -> Result<DlqPart, Error> {
    if let Some((_, part)) = kept.dlq.as_ref().filter(|(known, _)| *known == ranges) {
        return Ok(part.clone());
    }
    let mut part = DlqPart::default();
    let mut open = BTreeMap::<(String, String), (u64, String)>::new();
    for letter in read_all(&context.kafka, &context.topics.dlq_topic, &mut ()).await? {
        if letter.redriven.is_some() {
            part.redriven += 1;
            continue;
        }
        part.open += 1;
        let of = open.entry((letter.group, letter.error.kind)).or_default();
        *of = (of.0 + 1, format_time(letter.failed_at));
    }
    let row = |((group, kind), (count, latest))| DlqRow { group, kind, count, latest };
    part.by_group_and_kind = open.into_iter().map(row).collect();
    kept.dlq = Some((ranges, part.clone()));
    Ok(part)
}

fn text(screen: &Screen) -> String {
    let or_error = |part: Result<String, &String>| match part {
        Ok(text) => text,
        Err(error) => format!("cannot be seen: {error}\n"),
    };
    let rows = |rows: &Vec<TopicRow>| {
        let cells =
            rows.iter().map(|row| [row.topic.clone(), row.partitions.to_string(), row.offsets.to_string()]);
        table(["TOPIC", "PARTITIONS", "OFFSETS"], cells)
    };
    let topics = or_error(screen.topics.as_ref().map(rows));
    let groups = or_error(screen.groups.as_ref().map(|rows| list_text(rows)));
    let dlq = or_error(screen.dlq.as_ref().map(dlq_text));
    format!("{}\n{topics}\n{groups}\n{dlq}", api_text(&screen.api))
}

fn api_text(api: &ApiPart) -> String {
    let address = &api.address;
    if let Some(error) = &api.error {
        return format!("Task API {address}: cannot be seen: {error}\n");
    }
    let ready = if api.ready { "ready" } else { "not ready" };
    let kafka = if api.kafka_reachable { "reachable" } else { "unreachable" };
    let oldest = match api.outbox_oldest_seconds.filter(|_| api.outbox_waiting > 0) {
        Some(seconds) => format!(", the oldest for {seconds} s"),
        None => String::new(),
    };
    format!(
        "Task API {address}: {ready}, Kafka {kafka}, {} events wait in the outbox{oldest}\n",
        api.outbox_waiting
    )
}

fn dlq_text(dlq: &DlqPart) -> String {
    let mut text = format!("DLQ: {} open dead letters, {} redriven\n", dlq.open, dlq.redriven);
    if !dlq.by_group_and_kind.is_empty() {
        let cells = dlq
            .by_group_and_kind
            .iter()
            .map(|row| [row.group.clone(), row.kind.clone(), row.count.to_string(), row.latest.clone()]);
        text.push_str(&table(["GROUP", "KIND", "OPEN", "LATEST"], cells));
    }
    text
}
