//! `taskctl audit verify` of several logs: those of the instances that share the partitions, whose union is the audit
//! log.
//!
//! What is wrong: a line that is no event, an event that one log has twice or that is in two partitions, and an overlap
//! of two logs that is not what was in flight at a change of owner. What is shown beside it: overlaps that are, an
//! event that Kafka has twice and whose partition changed hands in between, lines that fill a hole, and offsets that no
//! log has.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use task_events::operate::Progress as _;
use uuid::Uuid;

use super::findings::{Findings, Kind, SHOWN};
use super::line::parse;
use super::parts::{Part, Step, holes, is_hand_over};
use super::plain::{At, Line};
use crate::log_files::{LogFile, files};
use crate::output::table;
use crate::progress::Progress;

/// The lines that an owner may have written and not committed when it was killed: those of the batches of some 20 ms.
const MAX_IN_FLIGHT: u64 = 4_096;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    logs: Vec<String>,
    pub(super) lines: u64,
    partitions: Vec<Covered>,
    /// Lines that are not whole events.
    damaged: u64,
    /// Lines whose event is in an earlier line of the same log, or in another partition.
    repeated: u64,
    /// How often a topic started again: it was recreated or truncated.
    restarts: u64,
    /// Lines that fill a hole of their log, behind later ones.
    filled: u64,
    /// Lines whose event is in another log as well, at the same offset.
    in_several: u64,
    /// Those of them that a change of owner does not explain.
    unexplained: u64,
    overlaps: Vec<Overlap>,
    /// Events that Kafka has twice, in two logs.
    published_twice: u64,
    /// Offsets that no log has.
    missing: Vec<Range>,
    /// Files that cannot be read to their end.
    damaged_files: u64,
    /// The first of what is wrong of each kind, for people, and how much more there is.
    findings: Vec<String>,
    #[serde(skip)]
    found: Findings,
}

/// What the logs together have of one partition.
#[derive(Debug, Serialize)]
struct Covered {
    topic: String,
    partition: i32,
    /// Events, each counted once.
    events: u64,
    first_offset: i64,
    last_offset: i64,
}

/// Lines one behind the other that are in two logs.
#[derive(Debug, Serialize)]
struct Overlap {
    topic: String,
    partition: i32,
    logs: [String; 2],
    lines: u64,
    first_offset: i64,
    last_offset: i64,
    /// Whether it is what was in flight when the partition changed hands.
    is_hand_over: bool,
}

#[derive(Debug, Serialize)]
struct Range {
    topic: String,
    partition: i32,
    first_offset: i64,
    last_offset: i64,
}

impl Report {
    /// Lines that are wrong.
    pub(super) fn wrong(&self, allow_overlap: bool) -> u64 {
        self.damaged + self.damaged_files + self.repeated + if allow_overlap { 0 } else { self.unexplained }
    }

    fn find(&mut self, finding: impl FnOnce() -> String) {
        self.found.add(Kind::Event, finding);
    }
}

/// Two of the logs that are one file, if any are.
pub(super) fn same_file(paths: &[PathBuf]) -> Option<String> {
    let mut known: HashMap<(u64, u64), &Path> = HashMap::new();
    for path in paths {
        // What cannot be read is reported when it is.
        let Ok(file) = path.metadata().map(|file: Metadata| (file.dev(), file.ino())) else { continue };
        if let Some(first) = known.insert(file, path) {
            return Some(format!("{} and {} are the same file", first.display(), path.display()));
        }
    }
    None
}

/// Where an event was seen last.
#[derive(Debug, Clone, Copy)]
struct Seen {
    log: usize,
    place: Place,
    slot: usize,
    offset: i64,
}

/// A line of a file, by its number here.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    line: u64,
}

/// Lines that are in two logs, one behind the other in the later one.
#[derive(Debug)]
struct Shared {
    slot: usize,
    logs: [usize; 2],
    lines: u64,
    first: i64,
    last: i64,
}

#[derive(Default)]
struct Union {
    report: Report,
    /// Each partition, by its number here.
    slots: Vec<(String, i32)>,
    numbers: HashMap<String, HashMap<i32, usize>>,
    /// Files, by the numbers in places.
    files: Vec<String>,
    /// By partition and log.
    parts: BTreeMap<(usize, usize), Part>,
    events: Vec<u64>,
    seen: HashMap<Uuid, Seen>,
    shared: Vec<Shared>,
    /// Of each partition, the overlap that the line before belongs to.
    open: HashMap<usize, usize>,
}

/// Reads each log as long as it is now. Holds an id and where it is for each event.
/// At most so many findings of each kind are shown.
pub(super) fn verify(paths: &[PathBuf], findings: usize) -> Result<Report, (PathBuf, io::Error)> {
    let mut logs = Vec::new();
    for path in paths {
        logs.push(files(path).map_err(|error| (path.clone(), error))?);
    }
    let bytes = logs.iter().flatten().map(|file| file.bytes).sum();
    let mut progress = Progress::new("verifying the audit logs", bytes, "bytes");
    let mut union = Union::default();
    union.report.found = Findings::new(findings);
    union.report.logs = paths.iter().map(|path| path.display().to_string()).collect();
    for (log, (files, path)) in logs.iter().zip(paths).enumerate() {
        union.open.clear();
        for file in files {
            union.read(log, file, &mut progress).map_err(|error| (path.clone(), error))?;
        }
    }
    Ok(union.finish())
}

impl Union {
    fn read(&mut self, log: usize, file: &LogFile, progress: &mut Progress) -> io::Result<()> {
        let mut lines = file.lines()?;
        let number_of_file = self.files.len();
        self.files.push(file.path.display().to_string());
        let mut number = 0;
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // The other files, and logs, are verified all the same.
                Err(error) => {
                    self.report.damaged_files += 1;
                    self.report.found.add(Kind::File, || {
                        format!("behind line {number}: {error}; what follows is not verified")
                    });
                    break;
                }
            };
            number = line.number;
            progress.add(line.bytes.len() as u64);
            self.report.lines += 1;
            let place = Place { file: number_of_file, line: line.number };
            match parse(line.bytes) {
                Ok(Line { event_id, kafka: At { topic, partition, offset }, .. }) => {
                    let slot = self.number(&topic, partition);
                    self.take(event_id, Seen { log, place, slot, offset });
                }
                Err(why) => {
                    self.report.damaged += 1;
                    let place = self.name_of(place);
                    self.report.find(|| format!("{place} is not an event of an audit log: {why}"));
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, topic: &str, partition: i32) -> usize {
        // No name is copied for a topic that is known.
        if let Some(number) = self.numbers.get(topic).and_then(|of_topic| of_topic.get(&partition)) {
            return *number;
        }
        let number = self.slots.len();
        self.slots.push((topic.to_owned(), partition));
        self.events.push(0);
        self.numbers.entry(topic.to_owned()).or_default().insert(partition, number);
        number
    }

    fn name_of(&self, Place { file, line }: Place) -> String {
        format!("{}:{line}", self.files.get(file).map_or("", String::as_str))
    }

    fn name(&self, slot: usize) -> (String, i32) {
        self.slots.get(slot).cloned().unwrap_or_default()
    }

    fn take(&mut self, event_id: Uuid, at: Seen) {
        let Seen { log, place, slot, offset } = at;
        let before = self.seen.insert(event_id, at);
        let is_shared = before.is_some_and(|before| before.log != log && before.slot == slot);
        match before {
            None => {
                if let Some(events) = self.events.get_mut(slot) {
                    *events += 1;
                }
            }
            Some(before) if is_shared && before.offset == offset => self.overlap(before.log, at),
            Some(_) if is_shared => self.report.published_twice += 1,
            Some(before) => {
                self.report.repeated += 1;
                let places = (self.name_of(place), self.name_of(before.place));
                self.report.find(|| format!("{} has event {event_id} of {} again", places.0, places.1));
            }
        }
        if !before.is_some_and(|before| is_shared && before.offset == offset) {
            self.open.remove(&slot);
        }
        match self.parts.entry((slot, log)).or_default().add(offset) {
            Step::Forward => {}
            Step::Fill => self.report.filled += 1,
            Step::Restart => {
                self.report.restarts += 1;
                let (place, (topic, partition)) = (self.name_of(place), self.name(slot));
                self.report.find(|| {
                    format!("{place} starts {topic}/{partition} again at offset {offset}: it was recreated or truncated")
                });
            }
        }
    }

    fn overlap(&mut self, other: usize, Seen { log, slot, offset, .. }: Seen) {
        self.report.in_several += 1;
        let open = self.open.get(&slot).and_then(|open| self.shared.get_mut(*open));
        let part = self.parts.get(&(slot, other));
        match open {
            Some(open)
                if open.logs == [other, log]
                    && offset > open.last
                    && !part.is_some_and(|part| part.has_between(open.last, offset)) =>
            {
                open.lines += 1;
                open.last = offset;
            }
            _ => {
                self.open.insert(slot, self.shared.len());
                self.shared.push(Shared { slot, logs: [other, log], lines: 1, first: offset, last: offset });
            }
        }
    }

    fn finish(mut self) -> Report {
        let none = Part::default();
        for Shared { slot, logs: [one, other], lines, first, last } in std::mem::take(&mut self.shared) {
            let part = |log| self.parts.get(&(slot, log)).unwrap_or(&none);
            let is_hand_over = lines <= MAX_IN_FLIGHT && is_hand_over(part(one), part(other), first, last);
            let (topic, partition) = self.name(slot);
            let logs = [one, other].map(|log| self.report.logs.get(log).cloned().unwrap_or_default());
            self.report.unexplained += if is_hand_over { 0 } else { lines };
            let (first_offset, last_offset) = (first, last);
            self.report.overlaps.push(Overlap {
                topic,
                partition,
                logs,
                lines,
                first_offset,
                last_offset,
                is_hand_over,
            });
        }
        for slot in 0..self.slots.len() {
            let parts = || self.parts.range((slot, 0)..=(slot, usize::MAX)).map(|(_, part)| part);
            let (topic, partition) = self.name(slot);
            for (first_offset, last_offset) in holes(parts()) {
                self.report.missing.push(Range {
                    topic: topic.clone(),
                    partition,
                    first_offset,
                    last_offset,
                });
            }
            let first_offset = parts().flat_map(Part::covered).map(|(first, _)| first).min().unwrap_or(0);
            let last_offset = parts().flat_map(Part::covered).map(|(_, last)| last).max().unwrap_or(0);
            let events = self.events.get(slot).copied().unwrap_or(0);
            self.report.partitions.push(Covered { topic, partition, events, first_offset, last_offset });
        }
        self.report.findings = std::mem::take(&mut self.report.found).into_lines();
        self.report.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        self.report
    }
}

/// The same for people.
pub(super) fn text(report: &Report) -> String {
    let rows = report.partitions.iter().map(|of| {
        let (first, last) = (of.first_offset.to_string(), of.last_offset.to_string());
        [of.topic.clone(), of.partition.to_string(), of.events.to_string(), first, last]
    });
    let mut text = table(["TOPIC", "PARTITION", "EVENTS", "FIRST-OFFSET", "LAST-OFFSET"], rows);
    let mut line = |line: String| text.push_str(&format!("{line}\n"));
    for finding in &report.findings {
        line(finding.clone());
    }
    line(format!(
        "{} lines of {} logs: {} damaged, {} repeated, {} in two logs",
        report.lines,
        report.logs.len(),
        report.damaged,
        report.repeated,
        report.in_several
    ));
    let mut overlaps: Vec<&Overlap> = report.overlaps.iter().collect();
    overlaps.sort_by_key(|overlap| overlap.is_hand_over);
    for Overlap { topic, partition, logs, lines, first_offset, last_offset, is_hand_over } in
        overlaps.into_iter().take(SHOWN)
    {
        let why = match is_hand_over {
            true => "in flight when the partition changed hands",
            false => {
                "not from a change of owner: a copy, a standby's log or one that was completed (--allow-overlap), or events that were read twice"
            }
        };
        line(format!(
            "{topic}/{partition} offsets {first_offset} to {last_offset}: {lines} lines in {} and {}: {why}",
            logs[0], logs[1]
        ));
    }
    if report.published_twice > 0 {
        line(format!(
            "{} events are in Kafka twice, and in two logs: their partition changed hands in between",
            report.published_twice
        ));
    }
    if report.filled > 0 {
        line(format!(
            "{} lines fill a hole of their log, behind later ones: the group was moved back, or a log was completed",
            report.filled
        ));
    }
    for Range { topic, partition, first_offset, last_offset } in report.missing.iter().take(SHOWN) {
        line(format!(
            "{topic}/{partition} offsets {first_offset} to {last_offset} are in no log: dead letters, markers of transactions, or the part of a log that is not here"
        ));
    }
    if report.restarts > 0 {
        let times = if report.restarts == 1 { "once" } else { "several times" };
        line(format!("a topic was recreated or truncated, and started again {times}"));
    }
    text
}

#[cfg(test)]
mod tests;
