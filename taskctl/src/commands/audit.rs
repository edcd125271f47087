//! `taskctl audit`: looks at an audit log from outside the service that wrote it.

mod line;
mod parts;
mod union;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use task_events::error_code::Code;
use task_events::operate::Progress as _;

use self::line::{At, Line, MAX_LINE, SHOWN, parse};
use crate::output::{self, table};
use crate::progress::Progress;
use crate::{Context, Error};

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that a log, or the logs of all instances of a group, are whole: every line an event, each event once, in
    /// the order of its topic
    ///
    /// Instances that share the partitions write a log each, and the audit log is their union: then each event is once in
    /// all of them together. What was in flight when a partition changed hands may be in two; that, and what is in none,
    /// is shown and not wrong.
    /// Where a topic starts again (it was recreated or truncated), so does its order: that is counted, and not wrong.
    Verify(Verify),
}

/// Which logs to check.
#[derive(Debug, Args)]
pub struct Verify {
    /// The audit log, or one for each instance. It may be in use; what is written meanwhile is not looked at
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of several logs: they may have any events in common, as a copy, or the log of a standby that was completed
    #[arg(long)]
    allow_overlap: bool,
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
    /// The offsets that have a line, since the topic last started again.
    #[serde(skip)]
    runs: Vec<(i64, i64)>,
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
        Self { topic, partition, lines: 0, first_offset: offset, last_offset: -1, runs }
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
    let Command::Verify(Verify { paths, allow_overlap }) = command;
    let [path] = paths.as_slice() else { return run_union(context, &paths, allow_overlap) };
    let report =
        File::open(path).and_then(|file| verify(&file)).map_err(|error| cannot_read(path, &error))?;
    output::write(context.format, &report, text)?;
    match report.damaged + report.repeated + report.out_of_order {
        0 => Ok(()),
        wrong => Err(Error::Refused(
            Code::ChecksFailed,
            format!("{}: {wrong} of {} lines are wrong", path.display(), report.lines),
        )),
    }
}

fn run_union(context: &Context, paths: &[PathBuf], allow_overlap: bool) -> Result<(), Error> {
    if let Some(same) = union::same_file(paths) {
        return Err(Error::Refused(Code::Selection, format!("{same}: name each log once")));
    }
    let report = union::verify(paths).map_err(|(path, error)| cannot_read(&path, &error))?;
    output::write(context.format, &report, union::text)?;
    match report.wrong(allow_overlap) {
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

/// Reads the log as long as it is now. Holds an id and a line number for each event.
fn verify(file: &File) -> io::Result<Report> {
    let length = file.metadata()?.len();
    let mut lines = BufReader::new(file.take(length));
    let mut progress = Progress::new("verifying the audit log", length, "bytes");
    let mut report = Report::default();
    let mut seen: HashMap<Uuid, u64> = HashMap::new();
    let mut covered: BTreeMap<(String, i32), Covered> = BTreeMap::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            break;
        }
        progress.add(u64::try_from(read).unwrap_or(0));
        report.lines += 1;
        let number = report.lines;
        let line: Line<'_> = match parse(&bytes) {
            Ok(line) => line,
            Err(why) => {
                report.damaged += 1;
                report.find(format!("line {number} is not an event of an audit log: {why}"));
                continue;
            }
        };
        if let Some(first) = seen.insert(line.event_id, number) {
            report.repeated += 1;
            report.find(format!("line {number} has event {} of line {first} again", line.event_id));
        }
        let At { topic, partition, offset } = line.kafka;
        let of_partition = covered.entry((topic.clone(), partition));
        let of_partition = of_partition.or_insert_with(|| Covered::new(&topic, partition, offset));
        let last = of_partition.last_offset;
        match of_partition.add(offset) {
            Step::Forward => {}
            Step::Restart => {
                report.restarts += 1;
                report.find(format!(
                    "line {number} starts {topic}/{partition} again at offset {offset}, after offset {last}: it was recreated or truncated"
                ));
            }
            Step::OutOfOrder => {
                report.out_of_order += 1;
                report.find(format!(
                    "line {number} has offset {offset} of {topic}/{partition} after offset {last}"
                ));
            }
        }
    }
    report.partitions = covered.into_values().collect();
    Ok(report)
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
    if report.restarts > 0 {
        let times = if report.restarts == 1 { "once" } else { "several times" };
        text.push_str(&format!("a topic was recreated or truncated, and started again {times}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(id: u128, offset: i64) -> String {
        format!(
            "{{\"event_id\":\"{}\",\"event_type\":\"task.created\",\"occurred_at\":\"t\",\"data\":{{}},\"metadata\":{{}},\"audited_at\":\"t\",\"kafka\":{{\"topic\":\"e\",\"partition\":0,\"offset\":{offset}}}}}\n",
            Uuid::from_u128(id)
        )
    }

    fn report(log: &str) -> Report {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        verify(&file).unwrap()
    }

    #[test]
    fn a_whole_log_is_whole() {
        let found = report(&[line(1, 0), line(2, 1), line(3, 7)].concat());
        assert_eq!((found.lines, found.damaged, found.repeated, found.out_of_order), (3, 0, 0, 0));
        assert_eq!((found.partitions[0].first_offset, found.partitions[0].last_offset), (0, 7));
        assert_eq!(report("").lines, 0);
    }

    #[test]
    fn what_is_wrong_is_found_with_its_line() {
        let torn = line(4, 9);
        let log = [line(1, 0), line(1, 2), line(2, 1), "{}\n".to_owned(), torn[..20].to_owned()].concat();
        let found = report(&log);
        assert_eq!((found.damaged, found.repeated, found.out_of_order, found.restarts), (2, 1, 1, 0));
        assert!(found.findings[0].starts_with("line 2 has event"), "{:?}", found.findings);
        assert!(found.findings[1].starts_with("line 3 has offset 1"), "{:?}", found.findings);
        assert!(found.findings[3].contains("has no end"), "{:?}", found.findings);
    }

    #[test]
    fn a_topic_that_was_recreated_starts_again_and_is_in_order_from_there() {
        // Shorter, longer, and where its start is by then. A hole that is filled behind it is no restart.
        for (before, again) in [([0, 1, 5], [0, 3, 9]), ([7, 8, 9], [2, 3, 8]), ([7, 8, 9], [8, 9, 11])] {
            let offsets = before.into_iter().chain(again);
            let log: String = (0..).zip(offsets).map(|(id, offset)| line(id, offset)).collect();
            let found = report(&log);
            assert_eq!((found.restarts, found.out_of_order), (1, 0), "{before:?} {again:?}: {found:?}");
            assert_eq!(found.partitions[0].last_offset, again[2]);
            let found = report(&[log, line(100, again[2] - 1)].concat());
            assert_eq!((found.restarts, found.out_of_order), (1, 1), "{found:?}");
        }
    }
}
