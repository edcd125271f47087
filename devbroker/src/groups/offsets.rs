//! Committed offsets: a map in memory and an append-only file of JSON lines behind it. A commit
//! is written before it is answered, so it survives a kill of the process; it is synced once a
//! second, so a power cut may take the last second. Offsets never expire.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;

/// The file is rewritten once it is this large and mostly stale.
const REWRITE_FROM_BYTES: u64 = 1 << 20;
const REWRITE_WHEN_LARGER: u64 = 8;

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    path: PathBuf,
    file: File,
    size: u64,
    size_when_rewritten: u64,
    dirty: bool,
}

impl CommittedOffsets {
    /// Reads the file, drops a torn last line, and writes it anew without stale lines. Blocking.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut groups = BTreeMap::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => apply(&mut groups, line),
                Err(error) => log::warn!("{}: skipped a torn line: {error}", path.display()),
            }
        }
        let (file, size) = rewrite(path, &groups)?;
        Ok(Self { groups, path: path.to_owned(), file, size, size_when_rewritten: size, dirty: false })
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

    fn append(&mut self, lines: Vec<Line>) -> io::Result<()> {
        let mut text = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text) {
            // A torn line in the middle would swallow the next one.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += text.len() as u64;
        self.dirty = true;
        for line in lines {
            apply(&mut self.groups, line);
        }
        let stale = self.size_when_rewritten.saturating_mul(REWRITE_WHEN_LARGER);
        if self.size > REWRITE_FROM_BYTES.max(stale) {
            (self.file, self.size) = rewrite(&self.path, &self.groups)?;
            self.size_when_rewritten = self.size;
            self.dirty = false;
        }
        Ok(())
    }

    /// Makes what was committed durable. Blocking.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
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

fn rewrite(
    path: &Path,
    groups: &BTreeMap<String, BTreeMap<TopicPartition, Committed>>,
) -> io::Result<(File, u64)> {
    let mut text = Vec::new();
    for (group, offsets) in groups {
        for ((topic, partition), committed) in offsets {
            let line = Line {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
                offset: Some(committed.offset),
                leader_epoch: committed.leader_epoch,
                metadata: committed.metadata.clone(),
            };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
    }
    durable::replace(path, &text)?;
    let file = OpenOptions::new().append(true).open(path)?;
    Ok((file, text.len() as u64))
}
