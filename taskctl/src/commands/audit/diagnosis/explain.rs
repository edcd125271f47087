//! What differs between a log and its tree, in words: each with its place, or what it is between.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use audit_tree::{Hash, TILE, Tile};

use super::super::findings::{Findings, Kind};
use super::gaps::{Differences, Gap, Moved, count, entries, lines};
use super::judge::{Fault, Verdict};
use super::mapping::{Run, What};
use super::stored::Stored;

/// Hashes of a tile that are named one by one.
const NAMED: usize = 8;

/// All that is known when it is put in words.
pub(super) struct Explanation<'a> {
    pub(super) names: &'a [String],
    pub(super) runs: &'a [Run],
    pub(super) found: &'a Differences,
    /// Lines in the place of entries, one for one.
    pub(super) other: &'a BTreeMap<u64, (Hash, usize, u64)>,
    pub(super) verdict: &'a Verdict,
    /// Files of which not all could be read.
    pub(super) damaged: &'a BTreeSet<usize>,
    pub(super) left_out: Option<(usize, u64)>,
    pub(super) size: u64,
}

/// Lines behind the checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) lines: u64,
    pub(super) first: Option<String>,
}

impl Explanation<'_> {
    /// Adds a finding for all that differs. The lines that are behind the checkpoint are none.
    pub(super) fn add_to(&self, findings: &mut Findings, stored: &Stored) -> Behind {
        self.tiles(findings, stored);
        self.found.moved.iter().for_each(|moved| self.moved(findings, moved));
        let mut behind = Behind::default();
        for gap in &self.found.gaps {
            // Nothing is known of what is behind the last line that was placed.
            if gap.next.is_some() || self.left_out.is_none() {
                behind = self.gap(findings, gap);
            }
        }
        if let Some((file, number)) = self.left_out {
            let (runs, name) = (self.runs.len(), self.name(file));
            findings.add(Kind::Line, || {
                format!(
                    "lines differ in more than {runs} places: nothing from {name}:{number} on was compared"
                )
            });
        }
        behind
    }

    fn name(&self, file: usize) -> &str {
        self.names.get(file).map_or("", String::as_str)
    }

    /// A line of a run, for people; with its byte where that is known.
    fn place(&self, run: &Run, within: u64) -> String {
        let (name, number) = (self.name(run.file), run.number + within);
        let known = match &run.what {
            _ if within == 0 => Some(run.at),
            What::Unknown(kept) => {
                usize::try_from(within).ok().and_then(|within| kept.get(within)).map(|(_, at)| *at)
            }
            _ => None,
        };
        match known {
            Some(at) => format!("{name}:{number} (byte {at})"),
            None => format!("{name}:{number}"),
        }
    }

    fn start(&self, number: usize) -> String {
        self.runs.get(number).map_or_else(String::new, |run| self.place(run, 0))
    }

    fn moved(&self, findings: &mut Findings, moved: &Moved) {
        let Some((run, range)) = self.runs.get(moved.run).zip(entries(self.runs, moved.run)) else { return };
        let lines = some_lines(&self.place(run, 0), run.lines, "is", "are");
        findings.add(Kind::Line, || match moved.is_copy {
            true => format!("{lines} {} again: copied", some_entries(&range)),
            false => format!("{lines} {}, out of place: lines were swapped or moved", some_entries(&range)),
        });
    }

    fn gap(&self, findings: &mut Findings, gap: &Gap) -> Behind {
        let (missing, strangers) = (count(&gap.missing), lines(self.runs, &gap.strangers));
        let is_end = gap.next.is_none();
        if is_end && strangers > missing {
            // What is behind the last entry is none, and no difference.
            let (file, within) = self.nth(gap, missing);
            let first = file.and_then(|number| self.runs.get(number)).map(|run| self.place(run, within));
            if missing > 0 {
                self.changed(findings, gap, missing);
            }
            return Behind { lines: strangers - missing, first };
        }
        match (missing, strangers) {
            (0, _) => {
                for run in gap.strangers.iter().filter_map(|number| self.runs.get(*number)) {
                    let lines = some_lines(&self.place(run, 0), run.lines, "is", "are");
                    findings.add(Kind::Line, || format!("{lines} no part of the tree: inserted"));
                }
            }
            (_, 0) => gap.missing.iter().for_each(|range| self.missing(findings, range, gap.next)),
            _ if missing == strangers => self.changed(findings, gap, missing),
            _ => {
                let first = gap.strangers.first().map(|number| self.start(*number)).unwrap_or_default();
                let from = gap.missing.first().map_or(0, |range| range.start);
                findings.add(Kind::Line, || {
                    format!("from {first} on {strangers} lines are in the place of {missing} entries from {from} on: lines were changed, merged, inserted or deleted")
                });
            }
        }
        Behind::default()
    }

    /// The run and the line in it that is the nth of the lines of a gap.
    fn nth(&self, gap: &Gap, nth: u64) -> (Option<usize>, u64) {
        let mut left = nth;
        for number in &gap.strangers {
            let lines = self.runs.get(*number).map_or(0, |run| run.lines);
            if left < lines {
                return (Some(*number), left);
            }
            left -= lines;
        }
        (None, 0)
    }

    /// So many lines of a gap are in the place of its entries. Those that are right, as their tile was changed, are left out.
    fn changed(&self, findings: &mut Findings, gap: &Gap, mut left: u64) {
        let mut missing = gap.missing.iter().cloned().flatten();
        for run in gap.strangers.iter().filter_map(|number| self.runs.get(*number)) {
            // Lines that follow each other, in the place of entries that do.
            let mut open: Option<(u64, Range<u64>)> = None;
            for within in 0..run.lines.min(left) {
                let Some(entry) = missing.next() else { break };
                if self.verdict.right.contains(&entry) {
                    continue;
                }
                match &mut open {
                    Some((first, range))
                        if range.end == entry && *first + (range.end - range.start) == within =>
                    {
                        range.end += 1;
                    }
                    _ => {
                        self.changed_lines(findings, run, open.take());
                        open = Some((within, entry..entry + 1));
                    }
                }
            }
            self.changed_lines(findings, run, open);
            left -= run.lines.min(left);
        }
    }

    fn changed_lines(&self, findings: &mut Findings, run: &Run, lines: Option<(u64, Range<u64>)>) {
        let Some((within, range)) = lines else { return };
        let place = self.place(run, within);
        findings.add(Kind::Line, || match range.end - range.start {
            1 => format!("{place} is not what entry {} was: the line was changed", range.start),
            lines => format!(
                "{place} and {} lines behind it are not what entries {} to {} were: they were changed",
                lines - 1,
                range.start,
                range.end - 1
            ),
        });
    }

    /// Entries that have no line, before that run.
    fn missing(&self, findings: &mut Findings, range: &Range<u64>, next: Option<usize>) {
        let entries = match range.end - range.start {
            1 => format!("entry {} is", range.start),
            _ => format!("entries {} to {} are", range.start, range.end - 1),
        };
        let lines = match range.end - range.start {
            1 => "a line was".to_owned(),
            lines => format!("{lines} lines were"),
        };
        let next = next.and_then(|number| self.runs.get(number));
        // The file that ends before them.
        let before = match next {
            Some(run) if run.number > 1 => None,
            _ => {
                let before =
                    self.runs.iter().take_while(|run| next.is_none_or(|next| !std::ptr::eq(*run, next)));
                before.last().map(|run| run.file).filter(|file| next.is_none_or(|next| *file != next.file))
            }
        };
        let has_lines = |file: &usize| self.runs.iter().any(|run| run.file == *file);
        let unread = before.filter(|file| self.damaged.contains(file));
        let unread = unread.or_else(|| self.damaged.iter().copied().find(|file| !has_lines(file)));
        let unread = unread.map(|file| self.name(file));
        let place = next.map(|run| self.place(run, 0));
        findings.add(Kind::Line, || match (next, place) {
            (Some(run), Some(place)) if run.number > 1 => {
                format!("{entries} missing before {place}: {lines} deleted")
            }
            (next, _) => match (unread, next) {
                (Some(file), _) => format!("{entries} in no line that can be read: {file} is damaged"),
                (_, Some(run)) => format!(
                    "{entries} in no file before {}: a segment is missing, or {lines} deleted there",
                    self.name(run.file)
                ),
                _ => format!(
                    "{} no line at the end of the log: it was truncated, or restored from an older copy",
                    entries.replace(" is", " has").replace(" are", " have")
                ),
            },
        });
    }

    /// What is wrong with tiles. Those that follow each other and cannot be read are one finding.
    fn tiles(&self, findings: &mut Findings, stored: &Stored) {
        let mut faults: Vec<&(Tile, Fault)> = self.verdict.tiles.iter().collect();
        faults.sort_by_key(|(tile, _)| *tile);
        let mut faults = faults.into_iter().peekable();
        while let Some((tile, fault)) = faults.next() {
            let mut last = *tile;
            let unreadable = |fault: &Fault| matches!(fault, Fault::Unreadable(_) | Fault::Lost(_));
            while let Some((next, other)) = faults.peek()
                && unreadable(fault)
                && std::mem::discriminant(other) == std::mem::discriminant(fault)
                && next.level == tile.level
                && next.number == last.number + 1
            {
                last = *next;
                faults.next();
            }
            findings.add(Kind::Tile, || self.tile(stored, *tile, last, fault));
        }
    }

    fn tile(&self, stored: &Stored, tile: Tile, last: Tile, fault: &Fault) -> String {
        let (name, more) = (stored.name(tile), last.number - tile.number);
        let range = tile.number * TILE..last.number * TILE + last.width;
        let behind = match more {
            0 => String::new(),
            more => format!(" (and {more} tiles behind it)"),
        };
        let lacks = |why: &str| match tile.level {
            0 => format!("the tree lacks entries {} to {}: {why}{behind}", range.start, range.end - 1),
            _ => format!("{why}{behind}"),
        };
        match fault {
            Fault::Changed(hashes) => {
                let named: Vec<String> = hashes.iter().take(NAMED).map(u64::to_string).collect();
                let more = hashes.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{name} was changed: hash {}{more}, and not the log", named.join(", "))
            }
            Fault::Unreadable(why) => format!("{}; what is below it is as it was", lacks(why)),
            Fault::Lost(why) => {
                format!(
                    "{}; whether {} are as they were is not known",
                    lacks(why),
                    self.lines_of(tile.level, &range)
                )
            }
            Fault::Unfit if tile.level == 0 => {
                format!("{name} was changed, and with it one or more of {}", self.lines_of(0, &range))
            }
            Fault::Unfit => format!(
                "{name} was changed: it does not lead to the tile above it, nor does what is below it"
            ),
        }
    }

    /// The lines in the place of entries, for people.
    fn lines_of(&self, level: usize, range: &Range<u64>) -> String {
        let place = |entry: u64| {
            if let Some((_, run, within)) = self.other.get(&entry) {
                return self.runs.get(*run).map(|run| self.place(run, *within));
            }
            let run = self
                .runs
                .iter()
                .find(|run| run.entry().is_some_and(|first| (first..first + run.lines).contains(&entry)))?;
            Some(self.place(run, entry - run.entry()?))
        };
        if level > 0 {
            return "the tiles below it".to_owned();
        }
        let last = range.end.min(self.size).saturating_sub(1);
        match (place(range.start), place(last)) {
            (Some(first), Some(last)) => format!("the lines {first} to {last}"),
            (Some(first), None) => format!("the lines from {first} on"),
            _ => format!("the lines of entries {} to {last}", range.start),
        }
    }
}

fn some_lines(place: &str, lines: u64, one: &str, many: &str) -> String {
    match lines {
        1 => format!("{place} {one}"),
        lines => format!("{place} and {} lines behind it {many}", lines - 1),
    }
}

fn some_entries(range: &Range<u64>) -> String {
    match range.end - range.start {
        1 => format!("entry {}", range.start),
        _ => format!("entries {} to {}", range.start, range.end - 1),
    }
}
