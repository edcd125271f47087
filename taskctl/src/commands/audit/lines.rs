//! What `taskctl audit verify` says of the lines of a log: all are read once, and those of few events, which may be
//! repeated, once more.

use std::io;

use task_events::operate::Progress as _;
use uuid::Uuid;

use super::covered::{MAX_PARTITIONS, Partitions, Step};
use super::findings::{Findings, Kind};
use super::line::{first_id, parse};
use super::pipeline::{self, Event};
use super::repeats::{Bounds, Filter, Suspects, part_of, parts};
use super::report::{Report, TreeReport};
use super::tree::{Finished, TreeCheck};
use super::witnessed::Cosigned;
use super::zones::{Place, Zones};
use crate::log_files::{LogFile, LogLine};
use crate::progress::Progress;

/// Reads the files of a log, oldest first.
/// At most so many findings of each kind are shown.
pub(super) fn verify(files: &[LogFile], tree: Option<TreeCheck>, findings: usize) -> io::Result<Report> {
    verify_within(files, tree, findings, Bounds::default())
}

fn verify_within(
    files: &[LogFile],
    mut tree: Option<TreeCheck>,
    findings: usize,
    bounds: Bounds,
) -> io::Result<Report> {
    let mut report =
        Report { files: files.iter().map(|file| file.name.clone()).collect(), ..Report::default() };
    report.found = Findings::new(findings);
    let (mut filter, mut suspects, mut zones) =
        (Filter::new(bounds), Suspects::new(bounds), Zones::new(files));
    let mut covered = Partitions::default();
    let mut progress = Progress::new("verifying the audit log", bytes_of(files), "bytes");
    let (mut file, mut number) = (0, 0);
    pipeline::for_each_block(files, tree.is_some(), |block| {
        progress.add(block.block.length as u64);
        if block.block.file != file {
            (file, number) = (block.block.file, 0);
        }
        let Some(of_file) = files.get(file) else { return };
        let name = of_file.name.as_str();
        filter.prefetch(block.lines.iter().filter_map(|line| Some(&line.event.as_ref().ok()?.id)));
        let mut at = block.block.at;
        for line in &block.lines {
            number += 1;
            if let Some(tree) = &mut tree {
                tree.take(line.leaf, || place(name, number, at));
            }
            report.lines += 1;
            match &line.event {
                Ok(event) => {
                    if filter.insert(&event.id) {
                        suspects.add(event.id);
                    }
                    zones.add(file, of_file.is_compressed(), at, number, event.id);
                    let topic = block.topics.get(event.topic).map_or("", String::as_str);
                    report.take(|| place(name, number, at), event, topic, &mut covered);
                }
                Err(why) => {
                    report.damaged += 1;
                    let place = || place(name, number, at);
                    report.find(|| format!("{} is not an event of an audit log: {why}", place()));
                }
            }
            at += line.length as u64;
        }
        if let Some(why) = &block.block.damage {
            report.damaged_files += 1;
            report.found.add(Kind::File, || {
                format!("{name} cannot be read behind line {number} (byte {at}): {why}; what follows is not verified")
            });
        }
    })?;
    report.partitions = covered.into_sorted();
    drop(progress);
    if suspects.too_many && filter.has_forgotten() {
        suspects = suspects_by_parts(files, &mut filter, report.lines, bounds)?;
    }
    drop(filter);
    report.find_repeats(files, suspects, &zones)?;
    drop(zones);
    if let Some(tree) = tree {
        report.add_tree(tree.finish(files)?);
    }
    report.findings = std::mem::take(&mut report.found).into_lines();
    Ok(report)
}

fn bytes_of(files: &[LogFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

/// The events that may be repeated, in a log whose ids are in no order.
fn suspects_by_parts(
    files: &[LogFile],
    filter: &mut Filter,
    lines: u64,
    bounds: Bounds,
) -> io::Result<Suspects> {
    let (mut suspects, parts) = (Suspects::new(bounds), parts(lines, bounds));
    for part in 0..parts {
        filter.clear();
        let mut progress = Progress::new("looking for repeated events", bytes_of(files), "bytes");
        for file in files {
            let mut lines = file.lines()?;
            // Where a file is damaged, that is a finding by now.
            while let Ok(Some(line)) = lines.next() {
                progress.add(line.bytes.len() as u64);
                if let Some(id) = whole_id(line.bytes, |id| part_of(id, parts) == part)
                    && filter.set(&id)
                {
                    suspects.add(id);
                }
            }
        }
    }
    Ok(suspects)
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
fn place(file: &str, number: u64, at: u64) -> String {
    format!("{file}:{number} (byte {at})")
}

impl Report {
    /// What the tree beside the log says.
    fn add_tree(&mut self, Finished { checkpoint, found, newest_anchor, cosigned, findings }: Finished) {
        let wrong = findings.count();
        self.found.extend(findings);
        let behind = |of: &Cosigned| self.lines.saturating_sub(of.lines);
        self.tree = Some(TreeReport {
            origin: checkpoint.origin,
            entries: checkpoint.size,
            anchors: found.compared,
            newest_anchor,
            uncovered: found.uncovered,
            first_uncovered: found.first_uncovered,
            cosigned: cosigned.map(|of| Cosigned { behind: behind(&of), ..of }),
            wrong,
        });
    }

    /// Looks at the next event of the log.
    fn take(&mut self, place: impl Fn() -> String, event: &Event, topic: &str, covered: &mut Partitions) {
        let Event { partition, offset, .. } = *event;
        let Some((step, last)) = covered.add(topic, partition, offset) else {
            self.damaged += 1;
            self.find(|| {
                format!("{} is of {topic}/{partition}, after lines of {MAX_PARTITIONS} others: no audit log has so many", place())
            });
            return;
        };
        match step {
            Step::Forward => {}
            Step::Restart => {
                self.restarts += 1;
                self.find(|| {
                    format!(
                        "{} starts {topic}/{partition} again at offset {offset}, after offset {last}: it was recreated or truncated",
                        place()
                    )
                });
            }
            Step::OutOfOrder => {
                self.out_of_order += 1;
                self.find(|| {
                    format!("{} has offset {offset} of {topic}/{partition} after offset {last}", place())
                });
            }
        }
    }

    /// Looks for the suspects once more where they may be, and counts those that are repeated.
    fn find_repeats(&mut self, files: &[LogFile], suspects: Suspects, zones: &Zones) -> io::Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        if suspects.too_many {
            let ids = suspects.ids().len();
            self.find(|| format!("more than {ids} events are repeated: not all are counted"));
        }
        let places = zones.of(suspects.ids());
        let length = |Place { file, from, to, .. }: &Place| {
            let bytes = files.get(*file).map_or(0, |file| file.bytes);
            bytes.min(*to).saturating_sub(*from)
        };
        let mut progress =
            Progress::new("looking for repeated events", places.iter().map(length).sum(), "bytes");
        let mut confirm = suspects.confirm();
        for Place { file, from, to, number } in places {
            let Some(file) = files.get(file) else { continue };
            let mut lines = match file.is_compressed() {
                true => file.lines()?,
                false => file.lines_between(from, to, number)?,
            };
            while let Ok(Some(LogLine { number, at, bytes })) = lines.next() {
                progress.add(bytes.len() as u64);
                if let Some(id) = whole_id(bytes, |id| confirm.is_suspect(id))
                    && let Some(first) = confirm.add(id, format!("{}:{number}", file.name))
                {
                    self.repeated += 1;
                    self.find(|| {
                        format!("{} has event {id} of {first} again", place(&file.name, number, at))
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::log_files::files;

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
        verify(&files(&path).unwrap(), None, 20).unwrap()
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
    fn a_file_that_is_damaged_is_named_and_all_others_are_verified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(folder.path().join("audit.log.2.gz"), "no gzip").unwrap();
        fs::write(folder.path().join("audit.log.1"), [line(1, 0), "{}\n".to_owned()].concat()).unwrap();
        fs::write(&path, [line(2, 2), line(1, 3)].concat()).unwrap();
        let found = verify(&files(&path).unwrap(), None, 20).unwrap();
        assert_eq!(
            (found.lines, found.damaged_files, found.damaged, found.repeated),
            (4, 1, 1, 1),
            "{found:?}"
        );
        assert_eq!(found.wrong(), 3);
        let findings = &found.findings;
        assert!(
            findings[0].starts_with("audit.log.2.gz cannot be read behind line 0 (byte 0): "),
            "{findings:?}"
        );
        assert!(
            findings[1].starts_with("audit.log.1:2 ") && findings[2].starts_with("audit.log:2 "),
            "{findings:?}"
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

    #[test]
    fn repeats_are_counted_whatever_the_order_of_ids_and_however_little_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let orders: [fn(u128) -> u128; 3] =
            [|number| number, |number| 5_000 - number, |number| number * 7_919 % 5_003];
        for order in orders {
            // Ten events once more: one behind the other, and far behind.
            let ids = (0..5_000).chain((100..200).step_by(20)).chain(4_995..5_000);
            let log: String = ids.zip(0..).map(|(id, offset)| line(order(id), offset)).collect();
            fs::write(&path, log).unwrap();
            let files = files(&path).unwrap();
            for (ids, suspects) in [(100_000, 100_000), (700, 100_000), (700, 50), (2_000, 10)] {
                let found = verify_within(&files, None, 20, Bounds { ids, suspects }).unwrap();
                assert_eq!((found.lines, found.damaged, found.repeated), (5_010, 0, 10), "{ids} {suspects}");
            }
        }
    }
}
