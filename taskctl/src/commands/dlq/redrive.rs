//! `taskctl dlq redrive`: hands dead letters to the group that failed them again.
//!
//! What a copy is, and why it is handled once and by one group, is described in [`task_events::redrive`]. Here is
//! what an operator has to know before: which letters were redriven already, which cannot be handled any better
//! than before, and which tasks have later events that the group has handled meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};

use clap::Args;
use serde::Serialize;
use task_events::error_code::Code;
use task_events::kafka::{ConsumerRecord, KafkaError};
use task_events::redrive::{GROUP_HEADER, RedriveError, Redriver};
use task_events::time::format_time;

use super::{Filter, is_named};
use crate::letters::{Letter, LetterName, read_all, read_one};
use crate::output::{self, cell, table};
use crate::positions::Positions;
use crate::progress::Progress;
use crate::scan::{readable, scan};
use crate::{Context, Error, LogRange};

/// Which dead letters to redrive.
#[derive(Debug, Args)]
pub struct Redrive {
    /// PARTITION/OFFSET as `taskctl dlq list` shows it, or an event id
    #[arg(value_name = "ID")]
    ids: Vec<LetterName>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters, where neither ids nor filters are given
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Also those that were redriven before
    #[arg(long)]
    again: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    executed: bool,
    redriven: usize,
    failed: usize,
    letters: Vec<Planned>,
}

/// A dead letter, and what becomes of it.
#[derive(Debug, Serialize)]
struct Planned {
    #[serde(skip)]
    letter: Letter,
    id: String,
    group: String,
    kind: String,
    source: String,
    task_id: Option<String>,
    /// Later events of the same task that the group has handled already: this one comes after them.
    later_events: u64,
    outcome: Outcome,
    /// What an operator should know.
    notes: Vec<String>,
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "detail")]
enum Outcome {
    /// It will be redriven with `--execute`.
    Planned,
    /// Where its copy is.
    Redriven(String),
    /// It was redriven before: where to.
    Skipped(String),
    /// Why it was not redriven.
    Failed(String),
}

/// Runs the command.
pub async fn run(context: &Context, args: &Redrive) -> Result<(), Error> {
    if args.ids.is_empty() && args.filter.is_empty() && !args.all {
        let why = "say which dead letters: ids, a filter (--group, --kind, --since, --until), or --all";
        return Err(Error::Refused(Code::Selection, why.to_owned()));
    }
    let letters = read_all(context).await?;
    let positions = Positions::read(context).await?;
    let mut planned = plan(args, letters, &positions)?;
    count_later_events(context, &positions, &mut planned).await?;
    if args.execute {
        execute(context, &mut planned).await?;
    }
    let count = |wanted: fn(&Outcome) -> bool| planned.iter().filter(|each| wanted(&each.outcome)).count();
    let redriven = count(|outcome| matches!(outcome, Outcome::Redriven(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let answer = Answer { executed: args.execute, redriven, failed, letters: planned };
    output::write(context.format, &answer, text)?;
    match failed {
        0 => Ok(()),
        failed => Err(Error::Refused(
            Code::NotRedriven,
            format!("{failed} dead letters were not redriven: see OUTCOME"),
        )),
    }
}

fn plan(args: &Redrive, letters: Vec<Letter>, positions: &Positions) -> Result<Vec<Planned>, Error> {
    for name in &args.ids {
        if !letters.iter().any(|letter| is_named(&[*name], letter)) {
            let name = match name {
                LetterName::Id(id) => id.to_string(),
                LetterName::Event(event_id) => event_id.to_string(),
            };
            return Err(Error::Refused(
                Code::NotFound,
                format!("there is no dead letter {name}: see `taskctl dlq list`"),
            ));
        }
    }
    let is_wanted =
        |letter: &Letter| (args.ids.is_empty() || is_named(&args.ids, letter)) && args.filter.matches(letter);
    let planned: Vec<_> = letters
        .into_iter()
        .filter(is_wanted)
        .map(|letter| Planned::new(letter, args.again, positions))
        .collect();
    if planned.is_empty() {
        return Err(Error::Refused(
            Code::NotFound,
            "no dead letter matches: see `taskctl dlq list`".to_owned(),
        ));
    }
    Ok(planned)
}

impl Planned {
    fn new(letter: Letter, again: bool, positions: &Positions) -> Self {
        let mut notes = Vec::new();
        if letter.is_malformed() {
            notes.push("malformed: only another version of the service can handle it".to_owned());
        }
        if !positions.knows(&letter.group) {
            notes.push(format!("no instance of {} has run", letter.group));
        }
        let outcome = match &letter.redriven {
            Some(note) if !again => {
                Outcome::Skipped(format!("{}, {}", note.to, format_time(note.redriven_at)))
            }
            _ => Outcome::Planned,
        };
        Self {
            id: letter.id.to_string(),
            group: letter.group.clone(),
            kind: letter.error.kind.clone(),
            source: letter.place().to_string(),
            task_id: letter.task(),
            later_events: 0,
            outcome,
            notes,
            letter,
        }
    }
}

/// Counts, for each letter, the events of its task that come after it and that its group has passed since.
async fn count_later_events(
    context: &Context,
    positions: &Positions,
    planned: &mut [Planned],
) -> Result<(), Error> {
    // Events that the group has failed, too, were passed and not handled.
    let failed: HashSet<_> = planned
        .iter()
        .map(|each| (each.group.clone(), each.letter.source.partition, each.letter.source.offset))
        .collect();
    let mut of_partition = BTreeMap::<(String, i32), HashMap<Vec<u8>, Vec<usize>>>::new();
    for (index, each) in planned.iter().enumerate() {
        if let (Outcome::Planned, Some(key)) = (&each.outcome, &each.letter.key) {
            let source = (each.letter.source.topic.clone(), each.letter.source.partition);
            of_partition.entry(source).or_default().entry(key.clone()).or_default().push(index);
        }
    }
    let mut progress = Progress::new("looking for later events", 0, "records");
    for ((topic, partition), by_key) in of_partition {
        let range = match readable(&context.kafka, &topic, partition).await {
            Ok(range) => range,
            // Redriving it says so.
            Err(KafkaError::UnknownTopic { .. } | KafkaError::UnknownPartition { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let letters = || by_key.values().flatten().filter_map(|index| planned.get(*index));
        let first = letters().map(|each| each.letter.source.offset + 1).min().unwrap_or(range.end);
        let groups = letters().filter_map(|each| positions.of(&each.group, &topic, partition));
        let end = groups.max().unwrap_or(0).min(range.end);
        let range = LogRange { start: first.max(range.start), end };
        if range.start >= range.end {
            continue;
        }
        progress.add_total(u64::try_from(range.end - range.start).unwrap_or(0));
        let mut later = HashMap::<usize, u64>::new();
        let each = |record: ConsumerRecord| {
            let Some(indexes) = record.key.as_deref().and_then(|key| by_key.get(key)) else { return };
            if record.headers.last(GROUP_HEADER).is_some() {
                return;
            }
            for index in indexes {
                let Some(each) = planned.get(*index) else { continue };
                let is_later = record.offset > each.letter.source.offset;
                let is_passed = positions.of(&each.group, &topic, partition) > Some(record.offset);
                let is_failed = failed.contains(&(each.group.clone(), partition, record.offset));
                if is_later && is_passed && !is_failed {
                    *later.entry(*index).or_default() += 1;
                }
            }
        };
        scan(&context.kafka, &topic, partition, range, &mut progress, each).await?;
        for (index, later) in later {
            if let Some(each) = planned.get_mut(index) {
                each.later_events = later;
                let events = if later == 1 { "event" } else { "events" };
                each.notes.push(format!(
                    "out of order: {} has handled {later} later {events} of this task",
                    each.group
                ));
            }
        }
    }
    Ok(())
}

/// Redrives what is planned, in the order of the DLQ. A letter whose event is gone holds up no other; a failure of
/// Kafka ends it.
async fn execute(context: &Context, planned: &mut [Planned]) -> Result<(), Error> {
    let topic = &context.topics.dlq_topic;
    let mut redriver = Redriver::new(context.kafka.clone(), topic);
    let mut wanted: Vec<_> = planned.iter_mut().filter(|each| each.outcome == Outcome::Planned).collect();
    let total = u64::try_from(wanted.len()).unwrap_or(u64::MAX);
    let mut progress = Progress::new("redriving", total, "dead letters");
    let mut done = 0;
    for each in &mut wanted {
        let outcome = match read_one(context, each.letter.id).await? {
            Some((record, letter)) => {
                let redriven = redriver.redrive(each.letter.id.partition, &record, &letter).await;
                redriven.map(|note| note.to.to_string())
            }
            None => {
                each.outcome = Outcome::Failed("the dead letter was deleted meanwhile".to_owned());
                continue;
            }
        };
        each.outcome = match outcome {
            Ok(to) => Outcome::Redriven(to),
            Err(RedriveError::NoEvent { why, .. }) => Outcome::Failed(why),
            Err(RedriveError::Kafka(error)) => {
                let why = format!(
                    "{error} (redriven before: {done} of {total}; start it again, which repeats none of them)"
                );
                return Err(Error::Refused(Code::NotRedriven, why));
            }
        };
        done += 1;
        progress.add(1);
    }
    Ok(())
}

fn text(answer: &Answer) -> String {
    let cells = answer.letters.iter().map(|each| {
        let outcome = match &each.outcome {
            Outcome::Planned => "would be redriven".to_owned(),
            Outcome::Redriven(to) => format!("redriven to {to}"),
            Outcome::Skipped(to) => format!("skipped: redriven to {to}"),
            Outcome::Failed(why) => format!("failed: {why}"),
        };
        let notes = Some(each.notes.join("; ")).filter(|notes| !notes.is_empty());
        [
            each.id.clone(),
            each.group.clone(),
            each.kind.clone(),
            each.source.clone(),
            cell(each.task_id.as_ref()),
            outcome,
            cell(notes),
        ]
    });
    let mut text = table(["ID", "GROUP", "KIND", "SOURCE", "TASK", "OUTCOME", "NOTES"], cells);
    if !answer.executed {
        text.push_str("Nothing was changed: this is a dry run. Add --execute to do it.\n");
    }
    text
}
