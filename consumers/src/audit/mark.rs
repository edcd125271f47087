//! What is known of the log up to a length; as bytes it is the mark that the index keeps with the ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use task_events::kafka::Position;
use uuid::Uuid;

use super::line::At;

/// The version of the mark that this code writes and reads. An older one makes the next start read the log.
const VERSION: u32 = 2;

/// Topic → partition → where reading goes on.
type Positions = BTreeMap<String, BTreeMap<i32, Kept>>;

/// A position as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    next: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    epoch: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    topic_id: Option<Uuid>,
}

/// What is known of the log: of its sealed segments together, and of the current file up to a length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    v: u32,
    /// Ids in the segments and in the file.
    pub(super) ids: u64,
    /// Bytes of the file.
    pub(super) length: u64,
    /// Where its last line starts.
    pub(super) last_line: u64,
    /// The event of its last line.
    pub(super) last_id: Uuid,
    positions: Positions,
    /// Lines are missing somewhere below: only reading moves the positions, not lines that are found.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) has_gaps: bool,
    /// What follows in the file was there before the index, and may be damaged.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) refused: bool,
    sealed: Sealed,
}

/// What was known when the file was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    segments: u64,
    ids: u64,
    positions: Positions,
}

impl Default for Mark {
    fn default() -> Self {
        Self {
            v: VERSION,
            ids: 0,
            length: 0,
            last_line: 0,
            last_id: Uuid::nil(),
            positions: BTreeMap::new(),
            has_gaps: false,
            refused: false,
            sealed: Sealed::default(),
        }
    }
}

impl Mark {
    /// Adds a line of that many bytes. Its id is counted by the index.
    pub(super) fn add(&mut self, event_id: Uuid, bytes: usize) {
        self.last_line = self.length;
        self.length += bytes as u64;
        self.last_id = event_id;
    }

    /// Adds a line that was found in a file, and lets reading go on after its event.
    pub(super) fn add_found(&mut self, event_id: Uuid, at: &At<'_>, bytes: usize) {
        self.add(event_id, bytes);
        if self.has_gaps {
            return;
        }
        let At { topic, partition, offset } = at;
        // The line does not say which topic of that name it was: the one of the lines before it.
        let topic_id = self.position(topic, *partition).and_then(|before| before.topic_id);
        let next = Kept { next: offset.saturating_add(1), epoch: None, topic_id };
        keep(&mut self.positions, topic, *partition, next);
    }

    /// Sets where reading goes on.
    pub(super) fn advance(&mut self, topic: &str, partition: i32, position: Position) {
        let Position { offset, leader_epoch, topic_id } = position;
        keep(&mut self.positions, topic, partition, Kept { next: offset, epoch: leader_epoch, topic_id });
    }

    /// Where reading goes on. `None`: there is nothing of that partition.
    pub(super) fn position(&self, topic: &str, partition: i32) -> Option<Position> {
        let kept = self.positions.get(topic)?.get(&partition)?;
        Some(Position { offset: kept.next, leader_epoch: kept.epoch, topic_id: kept.topic_id })
    }

    /// Where reading goes on, for people.
    pub(super) fn positions(&self) -> String {
        let of_topic = |(topic, partitions): (&String, &BTreeMap<i32, Kept>)| {
            let each = partitions
                .iter()
                .map(|(partition, kept)| format!("{topic}/{partition} offset {}", kept.next));
            each.collect::<Vec<_>>()
        };
        let all: Vec<String> = self.positions.iter().flat_map(of_topic).collect();
        if all.is_empty() { "the earliest offset of each partition".to_owned() } else { all.join(", ") }
    }

    /// The same log with its file sealed: a segment more, and a file that is empty.
    pub(super) fn sealed(&self) -> Self {
        let sealed =
            Sealed { segments: self.sealed.segments + 1, ids: self.ids, positions: self.positions.clone() };
        Self {
            ids: self.ids,
            positions: self.positions.clone(),
            has_gaps: self.has_gaps,
            sealed,
            ..Self::default()
        }
    }

    /// The same log as it was when its file was begun.
    pub(super) fn before_file(&self) -> Self {
        Self {
            ids: self.sealed.ids,
            positions: self.sealed.positions.clone(),
            sealed: self.sealed.clone(),
            ..Self::default()
        }
    }

    /// The same log with nothing of its file.
    pub(super) fn without_file(&self) -> Self {
        Self { length: 0, last_line: 0, last_id: Uuid::nil(), ..self.clone() }
    }

    /// The same log, of which lines are missing behind here, or damaged.
    pub(super) fn with_gaps(&self) -> Self {
        Self { has_gaps: true, refused: true, ..self.clone() }
    }

    /// Ids in the sealed segments: the number of the file's first event.
    pub(super) fn sealed_ids(&self) -> u64 {
        self.sealed.ids
    }

    /// The number of sealed segments.
    pub(super) fn segments(&self) -> u64 {
        self.sealed.segments
    }

    /// As the index keeps it, with that many ids.
    pub(super) fn to_bytes(&self, ids: u64) -> Vec<u8> {
        // Numbers and strings always serialise. Were it otherwise, the next start would read the whole log.
        serde_json::to_vec(&Self { ids, ..self.clone() }).unwrap_or_default()
    }

    /// Reads a mark. `None`: it is none of this version, or says what cannot be.
    pub(super) fn from_bytes(mark: &[u8]) -> Option<Self> {
        let mark: Self = serde_json::from_slice(mark).ok()?;
        let has_file = mark.last_line < mark.length || (mark.length == 0 && mark.last_line == 0);
        (mark.v == VERSION && has_file && mark.sealed.ids <= mark.ids).then_some(mark)
    }
}

fn keep(positions: &mut Positions, topic: &str, partition: i32, position: Kept) {
    // No key is cloned for a topic that is known.
    match positions.get_mut(topic) {
        Some(partitions) => partitions.insert(partition, position),
        None => positions.entry(topic.to_owned()).or_default().insert(partition, position),
    };
}
