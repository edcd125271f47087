//! What the page shows of each thing, as JSON, cut to what fits: texts of other systems have any length.

use std::collections::{BTreeMap, HashMap};

use chrono::DateTime;
use serde::Serialize;
use task_events::error_code::Code;
use task_events::escape::cut;
use task_events::kafka::ConsumerRecord;
use task_events::operate::groups::Life;
use task_events::operate::letters::{Letter, LetterRow, Letters};
use task_events::operate::partitions::PartitionRow;
use task_events::redrive::GROUP_HEADER;
use task_events::schemas::EventReader;
use task_events::time::format_time;
use uuid::Uuid;

/// Longest text of a foreign event that is shown, in characters: that of a title.
const MAX_TEXT: usize = 500;
/// Dead letters that are kept.
pub(super) const MAX_LETTERS: usize = 2_000;
/// Dead letters that are shown.
const SHOWN: usize = 100;
/// Characters of an error that are shown in a list.
const MAX_MESSAGE: usize = 300;
/// Partitions of a group that are shown each on its own.
const MAX_PARTITIONS: usize = 32;

/// An event as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct EventRow {
    partition: i32,
    offset: i64,
    /// When it was appended.
    at: String,
    event_id: Option<Uuid>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    task_id: Option<Uuid>,
    title: Option<String>,
    status: Option<String>,
    owner_id: Option<Uuid>,
    /// The group that alone handles it: a redriven event.
    only_for: Option<String>,
    /// Why it is no event.
    error: Option<String>,
}

impl EventRow {
    pub(super) async fn new(partition: i32, record: &ConsumerRecord, reader: &EventReader) -> Self {
        let row = Self::without_event(partition, record);
        let event = match reader.read_now(record.value.as_deref()).await {
            Ok(event) => event,
            Err(malformed) => return Self { error: Some(cut(&malformed.to_string(), MAX_TEXT)), ..row },
        };
        let task = event.task.as_ref();
        Self {
            event_id: Some(event.event_id),
            event_type: Some(cut(&event.event_type, MAX_TEXT)),
            task_id: task.map(|task| task.task_id),
            title: task.map(|task| cut(&task.title, MAX_TEXT)),
            status: task.map(|task| cut(&task.status, MAX_TEXT)),
            owner_id: task.and_then(|task| task.owner_id),
            ..row
        }
    }

    fn without_event(partition: i32, record: &ConsumerRecord) -> Self {
        let only_for = record.headers.last(GROUP_HEADER).and_then(|header| header.value);
        let at = DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default();
        Self {
            partition,
            offset: record.offset,
            at: format_time(at),
            event_id: None,
            event_type: None,
            task_id: None,
            title: None,
            status: None,
            owner_id: None,
            only_for: only_for.map(|group| cut(&String::from_utf8_lossy(group), MAX_TEXT)),
            error: None,
        }
    }

    pub(super) fn unreadable(partition: i32, offset: i64, why: &str) -> Self {
        let record = ConsumerRecord {
            offset,
            timestamp: -1,
            leader_epoch: -1,
            key: None,
            value: None,
            headers: Default::default(),
        };
        Self { error: Some(cut(why, MAX_TEXT)), ..Self::without_event(partition, &record) }
    }
}

/// What is shown of the DLQ.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetters<'a> {
    /// Not redriven.
    open: usize,
    redriven: usize,
    /// Older ones, which are not looked at.
    dropped: u64,
    /// The open ones by group and kind.
    by: Vec<Count<'a>>,
    /// The newest, open ones first.
    rows: Vec<LetterRow>,
}

#[derive(Debug, Serialize)]
struct Count<'a> {
    group: &'a str,
    kind: &'a str,
    open: usize,
}

impl<'a> DeadLetters<'a> {
    pub(super) fn of(letters: &'a Letters) -> Self {
        let is_open = |letter: &&Letter| letter.redriven.is_none();
        let mut by = BTreeMap::<(&str, &str), usize>::new();
        for letter in letters.iter().filter(is_open) {
            *by.entry((&letter.group, &letter.error.kind)).or_default() += 1;
        }
        let open = by.values().sum();
        let newest_open = letters.iter().rev().filter(is_open);
        let newest_redriven = letters.iter().rev().filter(|letter| letter.redriven.is_some());
        Self {
            open,
            redriven: letters.iter().filter(|letter| letter.redriven.is_some()).count(),
            dropped: letters.dropped(),
            by: by.into_iter().map(|((group, kind), open)| Count { group, kind, open }).take(SHOWN).collect(),
            rows: newest_open.chain(newest_redriven).take(SHOWN).map(row).collect(),
        }
    }
}

/// As it is listed, with what others wrote cut.
fn row(letter: &Letter) -> LetterRow {
    let mut row = LetterRow::new(letter);
    row.message = cut(&row.message, MAX_MESSAGE);
    row.event_type = row.event_type.map(|name| cut(&name, MAX_MESSAGE));
    row
}

/// A group as the page shows it.
#[derive(Debug, Serialize)]
pub(super) struct GroupRow {
    pub(super) group: String,
    /// The service that claimed it last.
    pub(super) service: Option<String>,
    /// The word for the life of its owners: the best of all partitions.
    pub(super) state: &'static str,
    /// The sum of its positions.
    pub(super) position: Option<i64>,
    /// Events to read in all partitions; `None` where an end is not known.
    pub(super) lag: Option<i64>,
    owners: Vec<String>,
    partition_count: usize,
    pub(super) partitions: Vec<PartitionRow>,
}

impl GroupRow {
    pub(super) fn new(
        group: String,
        services: &mut HashMap<String, String>,
        mut rows: Vec<PartitionRow>,
    ) -> Self {
        let mut owners: Vec<_> =
            rows.iter().filter_map(|row| row.owner.as_ref()).map(|owner| owner.short.clone()).collect();
        owners.sort();
        owners.dedup();
        let partition_count = rows.len();
        let row = Self {
            service: services.remove(&group),
            state: Life::of_all(rows.iter().map(|row| row.life)).as_str(),
            position: rows.iter().filter_map(|row| row.current_offset).reduce(|sum, each| sum + each),
            lag: rows.iter().map(|row| row.lag).sum(),
            owners,
            partition_count,
            partitions: Vec::new(),
            group,
        };
        // Those that need a look first.
        rows.sort_by_key(|row| (row.life == Life::Released, std::cmp::Reverse(row.lag), row.partition));
        rows.truncate(MAX_PARTITIONS);
        rows.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        Self { partitions: rows, ..row }
    }
}

/// The API itself, as it knows without asking Kafka.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Api {
    /// Why changes are refused, if they are.
    pub(super) store_failure: Option<String>,
    pub(super) kafka_reachable: bool,
    /// What the relay waits for.
    pub(super) waiting_for: Option<String>,
    /// Events that wait for Kafka.
    pub(super) outbox: u64,
    /// How long the oldest of them has waited.
    pub(super) oldest_seconds: Option<u64>,
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// `error`: something does not work. `warning`: something needs a look.
    pub(super) level: &'static str,
    pub(super) what: String,
    pub(super) action: String,
    /// To be looked up with `taskctl explain`.
    code: Option<&'static str>,
}

impl Finding {
    pub(super) fn error(what: String, action: &str, code: Option<Code>) -> Self {
        Self { level: "error", what, action: action.to_owned(), code: code.map(Code::as_str) }
    }

    pub(super) fn warning(what: String, action: &str) -> Self {
        Self { level: "warning", what, action: action.to_owned(), code: None }
    }
}

#[cfg(test)]
impl GroupRow {
    /// A group of which nothing is known but its name.
    pub(super) fn named(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            service: None,
            state: Life::Unclaimed.as_str(),
            position: None,
            lag: None,
            owners: Vec::new(),
            partition_count: 0,
            partitions: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_event_is_shown_with_its_reason_and_cut() {
        let record = |value: &[u8]| ConsumerRecord {
            offset: 7,
            timestamp: 0,
            leader_epoch: 0,
            key: None,
            value: Some(value.to_vec().into()),
            headers: Default::default(),
        };
        let row = EventRow::new(1, &record(b"{\"event_id\": "), &EventReader::json()).await;
        assert!(row.error.unwrap().starts_with("Invalid JSON in message: "));
        let row = EventRow::new(1, &record(&vec![b' '; 300 * 1024]), &EventReader::json()).await;
        assert!(row.error.unwrap().contains("the limit is"));
        assert_eq!(cut("größer", 3), "grö…");
        assert_eq!(cut("größer", 6), "größer");
    }
}
