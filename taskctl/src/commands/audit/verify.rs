//! `taskctl audit verify`: whether every line of a log is a whole event, each event there once, in its topic's order.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use task_events::error_code::Code;
use task_events::operate::Progress as _;
use task_events::services::AUDIT;
use uuid::Uuid;

use super::anchors;
use super::beside::tree_beside;
use super::comparison::Comparison;
use super::covered::{Covered, Step};
use super::keygen;
use super::line::{At, Line, first_id, parse};
use super::repeats::{Filter, MAX_SUSPECTS, Suspects};
use super::report::{Report, TreeReport, text};
use super::tree::TreeCheck;
use super::union;
use crate::log_files::{LogFile, LogLine, files};
use crate::output;
use crate::progress::Progress;
use crate::{Context, Error};

/// Which logs to check.
#[derive(Debug, Args)]
pub struct Verify {
    /// The audit log, or one for each instance. It may be in use; what is written meanwhile is not looked at
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of several logs: they may have any events in common, as a copy, or the log of a standby that was completed
    #[arg(long)]
    allow_overlap: bool,
    /// The public key of the log, in PEM: the tree's checkpoint has to be signed by it
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Compare the tree with what Kafka has of it, in the commits of this group
    #[arg(long, value_name = "GROUP", num_args = 0..=1, require_equals = true, default_missing_value = AUDIT)]
    kafka: Option<String>,
    /// A tree of another instance's log, or one that was set aside for a reason that is known: what Kafka has of it need not fit
    #[arg(long, value_name = "ORIGIN", requires = "kafka")]
    accept_origin: Vec<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: &Verify) -> Result<(), Error> {
    let [path] = args.paths.as_slice() else { return run_union(context, args) };
    let verifier = args.public_key.as_deref().map(keygen::read).transpose()?;
    // Before the log: whatever is committed is in it.
    let anchors = match &args.kafka {
        Some(group) => Some(anchors::read(context, group).await?),
        None => None,
    };
    let anchors = anchors.map(|mut anchors| {
        anchors.retain(|anchor| !args.accept_origin.contains(&anchor.origin));
        anchors
    });
    let (tree, not_checked) =
        tree_beside(path, verifier.as_ref(), anchors).map_err(|error| cannot_read(path, &error))?;
    let mut report =
        files(path).and_then(|files| verify(&files, tree)).map_err(|error| cannot_read(path, &error))?;
    report.not_checked = not_checked;
    output::write(context.format, &report, text)?;
    match report.wrong() {
        0 => Ok(()),
        wrong => Err(Error::Refused(
            Code::ChecksFailed,
            format!("{}: {wrong} things are wrong in {} lines", path.display(), report.lines),
        )),
    }
}

/// Several logs. Each may have a tree, which is verified with that log alone.
fn run_union(
    context: &Context,
    Verify { paths, allow_overlap, public_key, kafka, .. }: &Verify,
) -> Result<(), Error> {
    if public_key.is_some() || kafka.is_some() {
        let why = "--public-key and --kafka are of one log: verify each log with them, and then all of them without";
        return Err(Error::Refused(Code::Selection, why.to_owned()));
    }
    if let Some(same) = union::same_file(paths) {
        return Err(Error::Refused(Code::Selection, format!("{same}: name each log once")));
    }
    let report = union::verify(paths).map_err(|(path, error)| cannot_read(&path, &error))?;
    output::write(context.format, &report, union::text)?;
    match report.wrong(*allow_overlap) {
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

/// Reads the files of a log, oldest first.
fn verify(files: &[LogFile], tree: Option<TreeCheck>) -> io::Result<Report> {
    let mut comparison = tree.map(Comparison::start).transpose()?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let mut report =
        Report { files: files.iter().map(|file| file.name.clone()).collect(), ..Report::default() };
    let (mut filter, mut suspects) = (Filter::new(bytes), Suspects::default());
    let mut covered: BTreeMap<String, BTreeMap<i32, Covered>> = BTreeMap::new();
    let mut progress = Progress::new("verifying the audit log", bytes, "bytes");
    for file in files {
        let mut lines = file.lines()?;
        while let Some(line) = lines.next()? {
            progress.add(line.bytes.len() as u64);
            if let Some(comparison) = &mut comparison {
                comparison.take(&file.name, &line);
            }
            report.take(&file.name, line, &mut covered, |id| {
                if filter.insert(id, 0) {
                    suspects.add(id);
                }
            });
        }
    }
    if let Some(tree) = comparison.map(Comparison::finish).transpose()? {
        report.findings.extend(tree.findings.shown);
        report.tree = Some(TreeReport {
            origin: tree.checkpoint.origin,
            entries: tree.checkpoint.size,
            anchors: tree.compared,
            newest_anchor: tree.newest_anchor,
            uncovered: tree.uncovered,
            first_uncovered: tree.first_uncovered,
            wrong: tree.findings.count,
        });
    }
    report.partitions = covered.into_values().flat_map(BTreeMap::into_values).collect();
    for part in 1..filter.parts() {
        filter.clear();
        let mut progress = Progress::new("looking for repeated events", bytes, "bytes");
        for_each_line(files, &mut progress, |_, line| {
            if let Some(id) = whole_id(line.bytes, |id| filter.is_of(id, part))
                && filter.insert(id, part)
            {
                suspects.add(id);
            }
        })?;
    }
    drop(filter);
    report.find_repeats(files, suspects)?;
    Ok(report)
}

fn for_each_line(
    files: &[LogFile],
    progress: &mut Progress,
    mut take: impl FnMut(&str, LogLine<'_>),
) -> io::Result<()> {
    for file in files {
        let mut lines = file.lines()?;
        while let Some(line) = lines.next()? {
            progress.add(line.bytes.len() as u64);
            take(&file.name, line);
        }
    }
    Ok(())
}

/// The id of a line that is whole, if it is wanted. Of others, as most are, only the start is read.
fn whole_id(bytes: &[u8], is_wanted: impl Fn(&Uuid) -> bool) -> Option<Uuid> {
    if let Some(id) = first_id(bytes)
        && !is_wanted(&id)
    {
        return None;
    }
    parse(bytes).ok().map(|whole| whole.event_id).filter(is_wanted)
}

/// A place, for people.
fn place(file: &str, line: &LogLine<'_>) -> String {
    format!("{file}:{} (byte {})", line.number, line.at)
}

impl Report {
    /// Looks at a line.
    fn take(
        &mut self,
        file: &str,
        line: LogLine<'_>,
        covered: &mut BTreeMap<String, BTreeMap<i32, Covered>>,
        mut take_id: impl FnMut(Uuid),
    ) {
        self.lines += 1;
        let whole: Line<'_> = match parse(line.bytes) {
            Ok(whole) => whole,
            Err(why) => {
                self.damaged += 1;
                return self
                    .find(|| format!("{} is not an event of an audit log: {why}", place(file, &line)));
            }
        };
        take_id(whole.event_id);
        let At { topic, partition, offset } = whole.kafka;
        // No name is copied for a topic that is known.
        if !covered.contains_key(&*topic) {
            covered.insert(topic.clone().into_owned(), BTreeMap::new());
        }
        let Some(of_topic) = covered.get_mut(&*topic) else { return };
        let of_partition =
            of_topic.entry(partition).or_insert_with(|| Covered::new(&topic, partition, offset));
        let last = of_partition.last_offset;
        match of_partition.add(offset) {
            Step::Forward => {}
            Step::Restart => {
                self.restarts += 1;
                self.find(|| {
                    format!(
                        "{} starts {topic}/{partition} again at offset {offset}, after offset {last}: it was recreated or truncated",
                        place(file, &line)
                    )
                });
            }
            Step::OutOfOrder => {
                self.out_of_order += 1;
                self.find(|| {
                    format!(
                        "{} has offset {offset} of {topic}/{partition} after offset {last}",
                        place(file, &line)
                    )
                });
            }
        }
    }

    /// Looks for the suspects once more, and counts those that are repeated.
    fn find_repeats(&mut self, files: &[LogFile], suspects: Suspects) -> io::Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        if suspects.too_many {
            self.find(|| format!("more than {MAX_SUSPECTS} events are repeated: not all are counted"));
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        let mut progress = Progress::new("looking for repeated events", bytes, "bytes");
        let mut confirm = suspects.confirm();
        for_each_line(files, &mut progress, |file, line| {
            if let Some(id) = whole_id(line.bytes, |id| confirm.is_suspect(id))
                && let Some(first) = confirm.add(id, format!("{file}:{}", line.number))
            {
                self.repeated += 1;
                self.find(|| format!("{} has event {id} of {first} again", place(file, &line)));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(id: u128, offset: i64) -> String {
        format!(
            "{{\"event_id\":\"{}\",\"event_type\":\"task.created\",\"occurred_at\":\"t\",\"data\":{{}},\"metadata\":{{}},\"audited_at\":\"t\",\"kafka\":{{\"topic\":\"e\",\"partition\":0,\"offset\":{offset}}}}}\n",
            Uuid::from_u128(id)
        )
    }

    fn report_of(segment: Option<&str>, log: &str) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, log).unwrap();
        if let Some(segment) = segment {
            fs::write(folder.path().join("audit-00000000000000000000.log"), segment).unwrap();
        }
        verify(&files(&path).unwrap(), None).unwrap()
    }

    fn report(log: &str) -> Report {
        report_of(None, log)
    }

    #[test]
    fn a_log_is_verified_with_its_segments() {
        let found = report_of(Some(&[line(1, 0), line(2, 1)].concat()), &[line(3, 2), line(1, 3)].concat());
        assert_eq!(
            (found.lines, found.files.len(), found.repeated, found.damaged),
            (4, 2, 1, 0),
            "{found:?}"
        );
        assert_eq!(found.partitions[0].lines, 4);
        let finding = &found.findings[0];
        assert!(
            finding.starts_with("audit.log:2 ") && finding.contains("audit-00000000000000000000.log:1"),
            "{finding}"
        );
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
        let says =
            |text: &str| assert!(found.findings.iter().any(|finding| finding.contains(text)), "{found:?}");
        says("audit.log:3 (byte 372) has offset 1 of e/0 after offset 2");
        says("audit.log:4 (byte 558) is not an event");
        says("audit.log:5 (byte 561) is not an event of an audit log: it has no end");
        says("audit.log:2 (byte 186) has event 00000000-0000-0000-0000-000000000001 of audit.log:1 again");

        // A line that is not whole repeats nothing, whatever it begins with; one in another order of fields may.
        let (cut, other) = (&line(1, 1)[..60], line(1, 2).replacen(r#"{"event_id""#, r#"{ "event_id""#, 1));
        let found = report(&[&line(1, 0), cut, "\n", &other].concat());
        assert_eq!((found.lines, found.damaged, found.repeated), (3, 1, 1), "{found:?}");
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
