//! Committed offsets: a map in memory and a journal behind it. A commit is written before it is
//! answered, so it survives a kill of the process; it is synced once a second, so a power cut may
//! take the last second. Offsets never expire.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::journal::{self, Journal};

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// Topic and partition.
pub(crate) type TopicPartition = (String, i32);

/// One line of the file. Without an offset it deletes the entry.
#[derive(Serialize, Deserialize)]
struct Line {
    group: String,
    topic: String,
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(default)]
    leader_epoch: i32,
    #[serde(default)]
    metadata: String,
}

/// The committed offsets of all groups.
#[derive(Debug)]
pub(crate) struct CommittedOffsets {
    groups: BTreeMap<String, BTreeMap<TopicPartition, Committed>>,
    journal: Journal,
}

impl CommittedOffsets {
    /// Reads the file, drops a torn last line, and rewrites it without stale lines. Blocking.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut groups = BTreeMap::new();
        for line in journal::read(path)? {
            apply(&mut groups, line);
        }
        let journal = Journal::rewrite(path, lines(&groups))?;
        Ok(Self { groups, journal })
    }

    /// Every group that has an offset.
    pub fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    /// The offsets of a group; empty when it has none.
    pub fn of_group(&self, group: &str) -> BTreeMap<TopicPartition, Committed> {
        self.groups.get(group).cloned().unwrap_or_default()
    }

    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&Committed> {
        self.groups.get(group)?.get(&(topic.to_owned(), partition))
    }

    /// Commits offsets. Blocking.
    pub fn commit(&mut self, group: &str, offsets: Vec<(TopicPartition, Committed)>) -> io::Result<()> {
        let lines = offsets.into_iter().map(|((topic, partition), committed)| Line {
            group: group.to_owned(),
            topic,
            partition,
            offset: Some(committed.offset),
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata,
        });
        self.append(lines.collect())
    }

    /// Forgets the given offsets of a group. Blocking.
    pub fn delete(&mut self, group: &str, entries: Vec<TopicPartition>) -> io::Result<()> {
        let lines = entries.into_iter().map(|entry| deletion(group, entry));
        self.append(lines.collect())
    }

    /// Forgets a topic's offsets in every group, as its deletion demands. Blocking.
    pub fn delete_topic(&mut self, topic: &str) -> io::Result<()> {
        let mut lines = Vec::new();
        for (group, offsets) in &self.groups {
            let entries = offsets.keys().filter(|(name, _)| name == topic);
            lines.extend(entries.map(|entry| deletion(group, entry.clone())));
        }
        self.append(lines)
    }

    fn append(&mut self, changes: Vec<Line>) -> io::Result<()> {
        self.journal.append(changes.iter())?;
        for line in changes {
            apply(&mut self.groups, line);
        }
        if self.journal.is_stale() {
            self.journal = Journal::rewrite(self.journal.path(), lines(&self.groups))?;
        }
        Ok(())
    }

    /// Makes what was committed durable. Blocking.
    pub fn sync(&mut self) -> io::Result<()> {
        self.journal.sync()
    }
}

fn deletion(group: &str, (topic, partition): TopicPartition) -> Line {
    Line {
        group: group.to_owned(),
        topic,
        partition,
        offset: None,
        leader_epoch: -1,
        metadata: String::new(),
    }
}

fn apply(groups: &mut BTreeMap<String, BTreeMap<TopicPartition, Committed>>, line: Line) {
    let entry = (line.topic, line.partition);
    match line.offset {
        Some(offset) => {
            let committed = Committed { offset, leader_epoch: line.leader_epoch, metadata: line.metadata };
            groups.entry(line.group).or_default().insert(entry, committed);
        }
        None => {
            if let Some(offsets) = groups.get_mut(&line.group) {
                offsets.remove(&entry);
                if offsets.is_empty() {
                    groups.remove(&line.group);
                }
            }
        }
    }
}

/// One line for each offset.
fn lines(groups: &BTreeMap<String, BTreeMap<TopicPartition, Committed>>) -> impl Iterator<Item = Line> + '_ {
    groups.iter().flat_map(|(group, offsets)| {
        offsets.iter().map(|((topic, partition), committed)| Line {
            group: group.clone(),
            topic: topic.clone(),
            partition: *partition,
            offset: Some(committed.offset),
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata.clone(),
        })
    })
}
