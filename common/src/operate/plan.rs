//! Redriving dead letters: which ones, what an operator has to know before, and doing it.
//!
//! What a copy is, and why it is handled once and by one group, is described in [`crate::redrive`]. Here is which
//! letters were redriven already, which cannot be handled any better than before, and which tasks have later events
//! that the group has handled meanwhile. Planning changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Progress;
use super::letters::{Letter, LetterName, read_named, read_one};
use super::positions::Positions;
use super::scan::{LogRange, readable, scan};
use crate::config::topic_name;
use crate::kafka::{ConsumerRecord, Kafka, KafkaError};
use crate::redrive::{GROUP_HEADER, RedriveError, Redriver};
use crate::time::format_time;

/// Which dead letters, by what is known of them. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this consumer group.
    pub group: Option<String>,
    /// Only with this kind of error.
    pub kind: Option<String>,
    /// Only what failed at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only what failed before this time.
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether it leaves any out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it lets a letter through.
    pub fn matches(&self, letter: &Letter) -> bool {
        self.group.as_ref().is_none_or(|group| *group == letter.group)
            && self.kind.as_ref().is_none_or(|kind| *kind == letter.error.kind)
            && self.since.is_none_or(|since| letter.failed_at >= since)
            && self.until.is_none_or(|until| letter.failed_at < until)
    }
}

/// What is to be redriven.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only these; all where it is empty.
    pub names: Vec<LetterName>,
    /// Of them, only those.
    pub filter: Filter,
    /// Also those that were redriven before.
    pub again: bool,
}

/// Where the dead letters, and what decides about them, are.
#[derive(Debug, Clone, Copy)]
pub struct Topics<'a> {
    /// The DLQ.
    pub dlq: &'a str,
    /// Claims and commits.
    pub offsets: &'a str,
}

/// Why nothing was planned, or why it was not done to its end.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A call to Kafka failed before anything was changed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// No dead letter has that name.
    #[error("there is no dead letter {0}")]
    Unknown(LetterName),
    /// The selection is empty.
    #[error("no dead letter matches")]
    NoMatch,
    /// A call to Kafka failed after some were redriven.
    #[error("{error} ({progress})")]
    Interrupted {
        /// The failure.
        error: KafkaError,
        /// See [`Plan::progress`].
        progress: String,
    },
}

/// A dead letter, and what becomes of it.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The letter.
    #[serde(skip)]
    pub letter: Letter,
    /// Where it is.
    pub id: String,
    /// The group that failed it.
    pub group: String,
    /// The kind of error.
    pub kind: String,
    /// Where the event is.
    pub source: String,
    /// Its task.
    pub task_id: Option<String>,
    /// Later events of the same task that the group has handled already: this one comes after them.
    pub later_events: u64,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "detail")]
pub enum Outcome {
    /// It will be redriven when the plan is executed.
    Planned,
    /// Where its copy is.
    Redriven(String),
    /// It was redriven before: where to.
    Skipped(String),
    /// Why it was not redriven.
    Failed(String),
}

/// A plan, or what became of it.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Whether it was done.
    pub executed: bool,
    /// How many were redriven.
    pub redriven: usize,
    /// How many could not be.
    pub failed: usize,
    /// Each letter of the selection.
    pub letters: Vec<Planned>,
    /// The letter whose redrive was begun last, unless it has ended: a copy may have been written.
    #[serde(skip)]
    unclear: Option<String>,
}

impl Plan {
    /// What would be redriven, and what to know before.
    pub async fn make(
        kafka: &Kafka,
        topics: Topics<'_>,
        selection: &Selection,
        progress: &mut dyn Progress,
    ) -> Result<Self, PlanError> {
        let letters = read_named(kafka, topics.dlq, &selection.names, progress).await?;
        let positions = Positions::read(kafka, topics.offsets).await?;
        let mut planned = select(selection, letters, &positions)?;
        count_later_events(kafka, &positions, &mut planned, progress).await?;
        Ok(Self { executed: false, redriven: 0, failed: 0, letters: planned, unclear: None })
    }

    /// How far it came, where it was interrupted: by a failure of Kafka, or because [`execute`](Self::execute) was dropped.
    pub fn progress(&self) -> String {
        let planned = self.letters.iter().filter(|each| each.outcome == Outcome::Planned).count();
        let (redriven, total) = (self.redriven, self.redriven + self.failed + planned);
        let unclear = self.unclear.as_ref().map(|id| format!("; {id} may have been")).unwrap_or_default();
        format!(
            "redriven before: {redriven} of {total}{unclear}; start it again, which redrives none of them twice"
        )
    }

    /// Redrives what is planned, in the order of the DLQ. A letter whose event is gone holds up no other; a failure
    /// of Kafka ends it. Dropped, it has begun nothing more, and the plan has what was done.
    pub async fn execute(
        &mut self,
        kafka: &Kafka,
        dlq_topic: &str,
        progress: &mut dyn Progress,
    ) -> Result<(), PlanError> {
        let mut redriver = Redriver::new(kafka.clone(), dlq_topic);
        let wanted = self.letters.iter().enumerate().filter(|(_, each)| each.outcome == Outcome::Planned);
        let wanted: Vec<_> = wanted.map(|(index, _)| index).collect();
        progress.begin("redriving", "dead letters");
        progress.add_total(u64::try_from(wanted.len()).unwrap_or(u64::MAX));
        self.executed = true;
        for index in wanted {
            let Some(each) = self.letters.get_mut(index) else { continue };
            self.unclear = Some(each.id.clone());
            each.outcome = match redrive(kafka, dlq_topic, &mut redriver, each).await {
                Ok(outcome) => outcome,
                Err(error) => return Err(PlanError::Interrupted { error, progress: self.progress() }),
            };
            self.unclear = None;
            match each.outcome {
                Outcome::Redriven(_) => self.redriven += 1,
                _ => self.failed += 1,
            }
            progress.add(1);
        }
        Ok(())
    }
}

async fn redrive(
    kafka: &Kafka,
    dlq_topic: &str,
    redriver: &mut Redriver,
    planned: &Planned,
) -> Result<Outcome, KafkaError> {
    let id = planned.letter.id;
    let Some((record, letter)) = read_one(kafka, dlq_topic, id).await? else {
        return Ok(Outcome::Failed("the dead letter was deleted meanwhile".to_owned()));
    };
    match redriver.redrive(id.partition, &record, &letter).await {
        Ok(note) => Ok(Outcome::Redriven(note.to.to_string())),
        Err(RedriveError::NoEvent { why, .. }) => Ok(Outcome::Failed(why)),
        Err(RedriveError::Kafka(error)) => Err(error),
    }
}

fn select(
    selection: &Selection,
    letters: Vec<Letter>,
    positions: &Positions,
) -> Result<Vec<Planned>, PlanError> {
    let names = &selection.names;
    if let Some(unknown) = names.iter().find(|name| !letters.iter().any(|letter| name.means(letter))) {
        return Err(PlanError::Unknown(*unknown));
    }
    let is_named = |letter: &Letter| names.is_empty() || names.iter().any(|name| name.means(letter));
    let planned: Vec<_> = letters
        .into_iter()
        .filter(|letter| is_named(letter) && selection.filter.matches(letter))
        .map(|letter| Planned::new(letter, selection.again, positions))
        .collect();
    if planned.is_empty() { Err(PlanError::NoMatch) } else { Ok(planned) }
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
    kafka: &Kafka,
    positions: &Positions,
    planned: &mut [Planned],
    progress: &mut dyn Progress,
) -> Result<(), KafkaError> {
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
    progress.begin("looking for later events", "records");
    for ((topic, partition), by_key) in of_partition {
        // No broker has it: redriving it says so.
        if topic_name(&topic).is_err() {
            continue;
        }
        let range = match readable(kafka, &topic, partition).await {
            Ok(range) => range,
            // Redriving it says so.
            Err(KafkaError::UnknownTopic { .. } | KafkaError::UnknownPartition { .. }) => continue,
            Err(error) => return Err(error),
        };
        let letters = || by_key.values().flatten().filter_map(|index| planned.get(*index));
        let first = letters().map(|each| each.letter.source.offset + 1).min().unwrap_or(range.end);
        let groups = letters().filter_map(|each| positions.of(&each.group, &topic, partition));
        let end = groups.max().unwrap_or(0).min(range.end);
        let range = LogRange { start: first.max(range.start), end };
        if range.is_empty() {
            continue;
        }
        progress.add_total(range.len());
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
        scan(kafka, &topic, partition, range, progress, each).await?;
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
