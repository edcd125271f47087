//! The DLQ processor: one line on stdout for each event that a consumer could not handle, and their totals.
//!
//! # Invariants
//!
//! - *A dead letter is logged before it is committed*, at each log level, so that none is passed over in silence
//!   when the process dies.
//! - *A log collector that does not read stops nothing*: what waits for it is bounded, dropped beyond that, and
//!   counted, as log lines are. The dead letters stay in their topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;
use task_events::dlq::DlqRecord;
use task_events::escape::escape_control;
use task_events::event::Malformed;
use task_events::kafka::ConsumerRecord;
use task_events::logging::{CORRELATION_ID, Field};
use task_events::metrics::Text;
use task_events::redrive::{DlqEntry, Place, RedriveNote};
use task_events::runtime::{Decoder, Delivery, Done, Handler, HandlerError, Service};
use tokio::time::sleep;

use crate::lines::{Lines, Sink};
use crate::metrics::no_warnings;
use crate::service::Opened;

/// The totals are logged at most this often.
const TOTALS_EVERY: Duration = Duration::from_secs(10);
/// Pairs of group and kind that are counted separately, each a series of a metric: anyone may write to the topic.
const MAX_COUNTED: usize = 100;
/// Characters of a group or kind that are kept.
const MAX_NAME: usize = 100;
/// The group of a record that names none.
const UNKNOWN_GROUP: &str = "unknown";
/// What a dead letter that was redriven is counted as.
const REDRIVEN: &str = "redriven";

/// The service. It has no state but its offset.
pub fn open(sink: Sink) -> Opened<DeadLetters> {
    let service = DeadLetters { sink, totals: Totals::default() };
    let totals = service.totals.clone();
    let counted = totals.clone();
    Opened {
        service,
        at_end: Box::new(move || totals.log_if_changed()),
        metrics: Box::new(move |text| counted.render(text)),
        warnings: no_warnings(),
    }
}

/// Tells of dead letters and counts them.
#[derive(Debug)]
pub struct DeadLetters {
    sink: Sink,
    totals: Totals,
}

/// Tells of the dead letters of one partition.
#[derive(Debug)]
pub struct PartitionDeadLetters {
    lines: Lines,
    totals: Totals,
}

impl Service for DeadLetters {
    type Handler = PartitionDeadLetters;

    async fn open(&self, _: &str, _: i32) -> Result<PartitionDeadLetters, HandlerError> {
        let lines = Lines::new(self.sink.clone(), Level::Warn, module_path!());
        Ok(PartitionDeadLetters { lines, totals: self.totals.clone() })
    }
}

/// Decodes dead letters.
#[derive(Debug)]
pub struct LetterDecoder;

impl Decoder for LetterDecoder {
    /// What is no DLQ record is looked after as well: it has nowhere else to go.
    type Message = Result<DlqEntry, Malformed>;

    fn decode(&self, record: &ConsumerRecord) -> Result<Self::Message, Malformed> {
        Ok(DlqEntry::decode(record.value.as_deref()))
    }

    fn wants(&self, _: &Self::Message) -> bool {
        true
    }
}

impl Handler for PartitionDeadLetters {
    type Decoder = LetterDecoder;

    fn decoder(&self) -> LetterDecoder {
        LetterDecoder
    }

    async fn handle(
        &mut self,
        delivery: &Delivery<'_, Result<DlqEntry, Malformed>>,
    ) -> Result<(), HandlerError> {
        let (group, kind, text, correlation_id, source) = match delivery.message {
            Ok(DlqEntry::Letter(letter)) => {
                let (group, kind) = (letter.group.as_str(), letter.error.kind.as_str());
                (group, kind, text(letter), letter.correlation_id(), Some(Place::of(&letter.source)))
            }
            Ok(DlqEntry::Note(note)) => {
                (note.group.as_str(), REDRIVEN, note_text(note), note.correlation_id, Some(note.to.clone()))
            }
            Err(malformed) => (UNKNOWN_GROUP, malformed.kind(), no_record(malformed, delivery), None, None),
        };
        let source = source.as_ref();
        let fields = [
            Field::new(CORRELATION_ID, correlation_id),
            Field::new("group", group),
            Field::new("kind", kind),
            Field::new("topic", source.map(|source| source.topic.as_str())),
            Field::new("partition", source.map(|source| source.partition)),
            Field::new("offset", source.map(|source| source.offset)),
            Field::new("dlq_partition", delivery.partition),
            Field::new("dlq_offset", delivery.record.offset),
        ];
        self.lines.push(&text, &fields);
        self.totals.count(group, kind);
        Ok(())
    }

    async fn flush(&mut self, _: &Done<'_>) -> Result<u64, HandlerError> {
        self.lines.flush_or_log().await;
        Ok(0)
    }
}

fn no_record<M>(malformed: &Malformed, delivery: &Delivery<'_, M>) -> String {
    format!(
        "DLQ: group={UNKNOWN_GROUP} kind={} source=?/?/? retries=? message=not a DLQ record, at {}/{} offset {}: {}",
        malformed.kind(),
        delivery.topic,
        delivery.partition,
        delivery.record.offset,
        escape_control(&malformed.to_string())
    )
}

fn text(record: &DlqRecord) -> String {
    format!(
        "DLQ: group={} kind={} source={}/{}/{} retries={} message={}",
        escape_control(&record.group),
        escape_control(&record.error.kind),
        escape_control(&record.source.topic),
        record.source.partition,
        record.source.offset,
        record.retry_count,
        escape_control(&record.error.message)
    )
}

fn note_text(note: &RedriveNote) -> String {
    format!(
        "DLQ: group={} kind={REDRIVEN} dead_letter={} to={}",
        escape_control(&note.group),
        escape_control(&note.redriven.to_string()),
        escape_control(&note.to.to_string())
    )
}

/// Counts by group and kind, since the process started.
#[derive(Debug, Clone, Default)]
struct Totals(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_group_and_kind: BTreeMap<(String, String), u64>,
    changed: bool,
    /// A task waits to log the totals.
    timed: bool,
}

impl Totals {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counters are never half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one, and sees to it that the totals are logged.
    fn count(&self, group: &str, kind: &str) {
        let mut counts = self.lock();
        counts.add(group, kind);
        if !std::mem::replace(&mut counts.timed, true) {
            let totals = self.clone();
            tokio::spawn(async move {
                sleep(TOTALS_EVERY).await;
                totals.lock().timed = false;
                totals.log_if_changed();
            });
        }
    }

    fn render(&self, text: &mut Text) {
        const NAME: &str = "task_events_dead_letters_total";
        text.family(
            NAME,
            "counter",
            "Dead letters that were read, by the group that failed and the kind of its error.",
        );
        for ((group, kind), count) in &self.lock().by_group_and_kind {
            text.series(NAME, &[("group", group), ("kind", kind)], count);
        }
    }

    fn log_if_changed(&self) {
        let text = {
            let mut counts = self.lock();
            if !std::mem::take(&mut counts.changed) {
                return;
            }
            counts.text()
        };
        log::info!("{text}");
    }
}

impl Counts {
    fn add(&mut self, group: &str, kind: &str) {
        let short = |text: &str| text.chars().take(MAX_NAME).collect::<String>();
        let mut key = (short(group), short(kind));
        if self.by_group_and_kind.len() >= MAX_COUNTED && !self.by_group_and_kind.contains_key(&key) {
            key = ("other".to_owned(), "other".to_owned());
        }
        *self.by_group_and_kind.entry(key).or_default() += 1;
        self.changed = true;
    }

    fn text(&self) -> String {
        let mut text = "DLQ totals:".to_owned();
        for ((group, kind), count) in &self.by_group_and_kind {
            text.push_str(&format!(" {}/{}={count}", escape_control(group), escape_control(kind)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_by_group_and_kind_and_bounded() {
        let mut counts = Counts::default();
        for _ in 0..3 {
            counts.add("audit-service", "invalid_json");
        }
        counts.add("notification-service", "no\nvalue");
        assert_eq!(
            counts.text(),
            r"DLQ totals: audit-service/invalid_json=3 notification-service/no\nvalue=1"
        );
        for n in 0..2 * MAX_COUNTED {
            counts.add("g", &n.to_string());
        }
        assert!(counts.by_group_and_kind.len() <= MAX_COUNTED + 1);
        assert!(counts.text().contains("other/other="));
    }

    #[test]
    fn a_record_is_one_line() {
        let json = r#"{"original_event":{},"error":{"kind":"k","message":"a\nb"},"retry_count":4,"group":"g",
            "source":{"topic":"t","partition":0,"offset":7,"timestamp":"2026-01-15T10:30:00Z"},
            "failed_at":"2026-01-15T10:30:00Z"}"#;
        let record = DlqRecord::decode(Some(json.as_bytes())).unwrap();
        assert_eq!(text(&record), r"DLQ: group=g kind=k source=t/0/7 retries=4 message=a\nb");
    }

    #[tokio::test]
    async fn totals_are_logged_once_a_change() {
        let totals = Totals::default();
        totals.count("g", "k");
        totals.count("g", "k");
        assert!(totals.lock().changed && totals.lock().timed);
        totals.log_if_changed();
        assert!(!totals.lock().changed);
        totals.count("g", "k");
        assert!(totals.lock().changed);
    }
}
