//! What `taskctl audit verify` found, as it is shown.

use serde::Serialize;

use super::covered::Covered;
use super::findings::{Findings, Kind};
use super::witnessed::Cosigned;
use crate::output::table;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// The files of the log, oldest first.
    pub(super) files: Vec<String>,
    pub(super) lines: u64,
    pub(super) partitions: Vec<Covered>,
    /// Lines that are not whole events.
    pub(super) damaged: u64,
    /// Lines whose event is in an earlier one.
    pub(super) repeated: u64,
    /// Lines that are before an earlier one in the topic.
    pub(super) out_of_order: u64,
    /// How often a topic started again: it was recreated or truncated.
    pub(super) restarts: u64,
    /// Files that cannot be read to their end.
    pub(super) damaged_files: u64,
    /// The first of each kind, for people, and how many more there are.
    pub(super) findings: Vec<String>,
    #[serde(skip)]
    pub(super) found: Findings,
    /// What the tree beside the log says.
    pub(super) tree: Option<TreeReport>,
    /// What was not looked at, and how it could be.
    pub(super) not_checked: Vec<String>,
}

/// What the tree beside a log says.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct TreeReport {
    pub(super) origin: String,
    /// Entries that its checkpoint is of.
    pub(super) entries: u64,
    /// Anchors in Kafka that it was compared with.
    pub(super) anchors: u64,
    /// Lines of the newest of them.
    pub(super) newest_anchor: u64,
    /// Lines behind the checkpoint: the service has not signed them yet, or somebody else appended them.
    pub(super) uncovered: u64,
    pub(super) first_uncovered: Option<String>,
    /// What a witness has cosigned, where that was asked for.
    pub(super) cosigned: Option<Cosigned>,
    /// What differs.
    pub(super) wrong: u64,
}

impl Report {
    /// What is wrong: lines, and what differs from the tree.
    pub(super) fn wrong(&self) -> u64 {
        let of_lines = self.damaged + self.repeated + self.out_of_order;
        of_lines + self.damaged_files + self.tree.as_ref().map_or(0, |tree| tree.wrong)
    }

    /// Adds a finding about a line as an event.
    pub(super) fn find(&mut self, finding: impl FnOnce() -> String) {
        self.found.add(Kind::Event, finding);
    }
}

/// The same for people.
pub(super) fn text(report: &Report) -> String {
    let rows = report.partitions.iter().map(|of| {
        let (first, last) = (of.first_offset.to_string(), of.last_offset.to_string());
        [of.topic.clone(), of.partition.to_string(), of.lines.to_string(), first, last]
    });
    let mut text = format!("{}\n", report.files.join("\n"));
    text.push_str(&table(["TOPIC", "PARTITION", "LINES", "FIRST-OFFSET", "LAST-OFFSET"], rows));
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    text.push_str(&format!(
        "{} lines: {} damaged, {} repeated, {} out of order\n",
        report.lines, report.damaged, report.repeated, report.out_of_order
    ));
    if let Some(tree) = &report.tree {
        text.push_str(&format!(
            "tree {}: {} entries, {} differences\n",
            tree.origin, tree.entries, tree.wrong
        ));
        if tree.anchors > 0 {
            text.push_str(&format!(
                "{} anchors in Kafka, the newest of {} lines\n",
                tree.anchors, tree.newest_anchor
            ));
        }
        if let Some(Cosigned { witness, lines, time, behind }) = &tree.cosigned {
            text.push_str(&format!("witness {witness} cosigned {lines} lines at {time}\n"));
            if *behind > 0 {
                text.push_str(&format!(
                    "not checked: the last {behind} lines against the witness: they came later, or an older cosignature was put back\n"
                ));
            }
        }
        if let Some(first) = &tree.first_uncovered {
            text.push_str(&format!(
                "{} lines are behind its checkpoint, from {first} on: not signed yet, or appended by somebody else\n",
                tree.uncovered
            ));
        }
    }
    for what in &report.not_checked {
        text.push_str(&format!("not checked: {what}\n"));
    }
    if report.restarts > 0 {
        let times = if report.restarts == 1 { "once" } else { "several times" };
        text.push_str(&format!("a topic was recreated or truncated, and started again {times}\n"));
    }
    text
}
