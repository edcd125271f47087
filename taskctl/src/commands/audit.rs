//! `taskctl audit`: looks at an audit log from outside the service that wrote it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use task_events::error_code::Code;
use task_events::operate::Progress as _;

use crate::output::{self, table};
use crate::progress::Progress;
use crate::{Context, Error};

/// The longest line, in bytes: an event has 256 KiB at most.
const MAX_LINE: u64 = 1024 * 1024;
/// Findings that are shown; all are counted.
const SHOWN: usize = 20;

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that a log, or the logs of all instances of a group, are whole: every line an event, each event once, in
    /// the order of its topic
    ///
    /// Instances that share the partitions write a log each, and the audit log is their union. An event that was in
    /// flight when a partition changed hands may be in two of them: that is counted, and not wrong.
    /// Where a topic starts again (it was recreated or truncated), so does its order: that is counted, and not wrong.
    Verify(Verify),
}

/// Which logs to check.
#[derive(Debug, Args)]
pub struct Verify {
    /// The audit log, or one for each instance. It may be in use; what is written meanwhile is not looked at
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// A line, as far as it matters here; that the rest is there matters, too.
#[derive(Deserialize)]
#[allow(dead_code, reason = "read to see that they are there")]
struct Line<'a> {
    event_id: Uuid,
    event_type: String,
    occurred_at: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    audited_at: String,
    kafka: At,
}

#[derive(Deserialize)]
struct At {
    topic: String,
    partition: i32,
    offset: i64,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    lines: u64,
    partitions: Vec<Covered>,
    /// Lines that are not whole events.
    damaged: u64,
    /// Lines whose event is in an earlier one.
    repeated: u64,
    /// Lines that are before an earlier one in the topic.
    out_of_order: u64,
    /// How often a topic started again: it was recreated or truncated.
    restarts: u64,
    /// Lines whose event is in another log as well.
    in_several: u64,
    /// Where those are.
    overlaps: Vec<Overlap>,
    /// The first of them, for people.
    findings: Vec<String>,
}

/// What a log has of one partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Covered {
    topic: String,
    partition: i32,
    lines: u64,
    first_offset: i64,
    last_offset: i64,
    /// Lines whose event is in an earlier log.
    #[serde(skip)]
    shared: u64,
    /// The offsets that have a line, since the topic last started again.
    #[serde(skip)]
    runs: Vec<(i64, i64)>,
}

/// Events that are in more than one log.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Overlap {
    topic: String,
    partition: i32,
    /// The later of the logs.
    log: String,
    lines: u64,
    first_offset: i64,
    last_offset: i64,
}

/// Where an event was seen first.
#[derive(Debug, Clone, Copy)]
struct Seen {
    log: usize,
    line: u64,
    offset: i64,
}

/// How a line's offset follows those before it in its partition.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// In order.
    Forward,
    /// Another event had that offset, or all before it have later ones: it is another topic of that name, or what is
    /// left of one that was truncated.
    Restart,
    /// Between lines that were there, where none was.
    OutOfOrder,
}

impl Covered {
    fn new(topic: &str, partition: i32, offset: i64) -> Self {
        let (topic, runs) = (topic.to_owned(), Vec::new());
        Self { topic, partition, lines: 0, first_offset: offset, last_offset: -1, shared: 0, runs }
    }

    /// The same partition in another log.
    fn include(&mut self, other: &Self) {
        self.lines += other.lines - other.shared;
        self.first_offset = self.first_offset.min(other.first_offset);
        self.last_offset = self.last_offset.max(other.last_offset);
    }

    /// Takes the next line.
    fn add(&mut self, offset: i64) -> Step {
        self.lines += 1;
        match self.runs.last_mut() {
            Some((_, last)) if offset == *last + 1 => *last = offset,
            Some((_, last)) if offset > *last => self.runs.push((offset, offset)),
            None => self.runs.push((offset, offset)),
            Some(_) => {
                let had_one = self.runs.iter().rev().any(|(first, last)| (*first..=*last).contains(&offset));
                if !had_one && self.runs.first().is_some_and(|(first, _)| *first < offset) {
                    return Step::OutOfOrder;
                }
                self.runs = vec![(offset, offset)];
                self.first_offset = offset.min(self.first_offset);
                self.last_offset = offset;
                return Step::Restart;
            }
        }
        self.last_offset = offset;
        Step::Forward
    }
}

/// Runs the command.
pub fn run(context: &Context, command: Command) -> Result<(), Error> {
    let Command::Verify(Verify { paths }) = command;
    let report = verify(&paths).map_err(|(path, error)| cannot_read(&path, &error))?;
    output::write(context.format, &report, text)?;
    match report.damaged + report.repeated + report.out_of_order {
        0 => Ok(()),
        wrong => {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Err(Error::Refused(
                Code::ChecksFailed,
                format!("{}: {wrong} of {} lines are wrong", names.join(", "), report.lines),
            ))
        }
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Error {
    Error::Refused(Code::File, format!("audit log {} cannot be read: {error}", path.display()))
}

/// Reads each log as long as it is now. Holds an id and where it is for each event.
fn verify(paths: &[PathBuf]) -> Result<Report, (PathBuf, io::Error)> {
    let mut files = Vec::new();
    for path in paths {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        files.push(opened.map_err(|error| (path.clone(), error))?);
    }
    let progress =
        Progress::new("verifying the audit log", files.iter().map(|(length, _)| length).sum(), "bytes");
    let mut check =
        Check { progress, report: Report::default(), seen: HashMap::new(), several: BTreeMap::new() };
    let mut partitions: BTreeMap<(String, i32), Covered> = BTreeMap::new();
    for (number, ((length, file), path)) in files.into_iter().zip(paths).enumerate() {
        // A line's number says enough where there is one log.
        let name = if paths.len() == 1 { String::new() } else { format!("{} ", path.display()) };
        let covered = check.log(number, &name, file.take(length)).map_err(|error| (path.clone(), error))?;
        for (key, covered) in covered {
            match partitions.entry(key) {
                Entry::Vacant(place) => drop(place.insert(covered)),
                Entry::Occupied(mut place) => place.get_mut().include(&covered),
            }
        }
    }
    let mut report = check.report;
    report.partitions = partitions.into_values().collect();
    report.overlaps = check.several.into_values().collect();
    Ok(report)
}

/// What is known of the logs so far.
struct Check {
    progress: Progress,
    report: Report,
    seen: HashMap<Uuid, Seen>,
    /// By topic, partition, and the numbers of the two logs.
    several: BTreeMap<(String, i32, usize, usize), Overlap>,
}

impl Check {
    /// Reads one log, and returns what it has of each partition.
    fn log(
        &mut self,
        log: usize,
        name: &str,
        bytes: impl Read,
    ) -> io::Result<BTreeMap<(String, i32), Covered>> {
        let mut lines = BufReader::new(bytes);
        let mut covered: BTreeMap<(String, i32), Covered> = BTreeMap::new();
        let mut in_this_log: HashSet<Uuid> = HashSet::new();
        let (mut bytes, mut number) = (Vec::new(), 0_u64);
        loop {
            bytes.clear();
            let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(covered);
            }
            self.progress.add(u64::try_from(read).unwrap_or(0));
            number += 1;
            let report = &mut self.report;
            report.lines += 1;
            let line: Line<'_> = match parse(&bytes) {
                Ok(line) => line,
                Err(why) => {
                    report.damaged += 1;
                    report.find(format!("{name}line {number} is not an event of an audit log: {why}"));
                    continue;
                }
            };
            let At { topic, partition, offset } = line.kafka;
            let seen = Seen { log, line: number, offset };
            let before = self.seen.get(&line.event_id).copied();
            let is_elsewhere = before.is_some_and(|before| before.log != log && before.offset == offset);
            match before {
                None => drop(self.seen.insert(line.event_id, seen)),
                Some(Seen { log: other, .. }) if is_elsewhere && in_this_log.insert(line.event_id) => {
                    report.in_several += 1;
                    let overlap = self.several.entry((topic.clone(), partition, other, log));
                    let overlap = overlap.or_insert_with(|| Overlap {
                        topic: topic.clone(),
                        partition,
                        log: name.trim_end().to_owned(),
                        lines: 0,
                        first_offset: offset,
                        last_offset: offset,
                    });
                    overlap.lines += 1;
                    overlap.first_offset = overlap.first_offset.min(offset);
                    overlap.last_offset = overlap.last_offset.max(offset);
                }
                Some(Seen { line: first, .. }) => {
                    report.repeated += 1;
                    report.find(format!(
                        "{name}line {number} has event {} of line {first} again",
                        line.event_id
                    ));
                }
            }
            let of_partition = covered.entry((topic.clone(), partition));
            let of_partition = of_partition.or_insert_with(|| Covered::new(&topic, partition, offset));
            of_partition.shared += u64::from(is_elsewhere);
            let last = of_partition.last_offset;
            match of_partition.add(offset) {
                Step::Forward => {}
                Step::Restart => {
                    report.restarts += 1;
                    report.find(format!(
                        "{name}line {number} starts {topic}/{partition} again at offset {offset}, after offset {last}: it was recreated or truncated"
                    ));
                }
                Step::OutOfOrder => {
                    report.out_of_order += 1;
                    report.find(format!(
                        "{name}line {number} has offset {offset} of {topic}/{partition} after offset {last}"
                    ));
                }
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    let line =
        bytes.strip_suffix(b"\n").ok_or("it has no end; a service that starts with this log cuts it off")?;
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

impl Report {
    fn find(&mut self, finding: String) {
        if self.findings.len() < SHOWN {
            self.findings.push(finding);
        }
    }
}

fn text(report: &Report) -> String {
    let rows = report.partitions.iter().map(|of| {
        let (first, last) = (of.first_offset.to_string(), of.last_offset.to_string());
        [of.topic.clone(), of.partition.to_string(), of.lines.to_string(), first, last]
    });
    let mut text = table(["TOPIC", "PARTITION", "LINES", "FIRST-OFFSET", "LAST-OFFSET"], rows);
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    text.push_str(&format!(
        "{} lines: {} damaged, {} repeated, {} out of order\n",
        report.lines, report.damaged, report.repeated, report.out_of_order
    ));
    if report.in_several > 0 {
        text.push_str(&format!(
            "{} of them in more than one log, written once in each:\n",
            report.in_several
        ));
        for Overlap { topic, partition, log, lines, first_offset, last_offset } in &report.overlaps {
            text.push_str(&format!(
                "{topic}/{partition} offsets {first_offset} to {last_offset}: {lines} lines of {log} are in another log as well, from a hand-over, a standby, or a log that was completed\n"
            ));
        }
    }
    if report.restarts > 0 {
        let times = if report.restarts == 1 { "once" } else { "several times" };
        text.push_str(&format!("a topic was recreated or truncated, and started again {times}\n"));
    }
    text
}

#[cfg(test)]
mod tests;
