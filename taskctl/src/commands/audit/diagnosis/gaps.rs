//! What is between the lines that are where they were: entries that have no line there, and lines that are no entry there.

use std::collections::BTreeMap;
use std::ops::Range;

use audit_tree::Hash;

use super::chain::in_order;
use super::mapping::{Run, What};

/// Between two runs that are in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Entries that have no line anywhere.
    pub(super) missing: Vec<Range<u64>>,
    /// Lines that are no entries: the numbers of their runs.
    pub(super) strangers: Vec<usize>,
    /// The run behind it.
    pub(super) next: Option<usize>,
}

/// A run of lines that are entries, and not where they were.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) run: usize,
    /// Its entries are where they were, too.
    pub(super) is_copy: bool,
}

/// What differs from the tree, in the order of the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    pub(super) gaps: Vec<Gap>,
    pub(super) moved: Vec<Moved>,
    /// The last run that is in order.
    pub(super) last: Option<usize>,
}

/// Puts the files, but for the last, in the order of most of their entries: a line that was changed may be the one that
/// says when a file was begun. `at` is where each file is by now.
pub(super) fn sort_by_entries(runs: &mut [Run], active: usize) {
    let mut files: BTreeMap<usize, (u64, Option<u64>)> = BTreeMap::new();
    for run in runs.iter() {
        let file = files.entry(run.file).or_default();
        if let What::Entries(entry) = run.what
            && run.lines > file.0
        {
            *file = (run.lines, Some(entry.saturating_sub(run.number)));
        }
    }
    // A file without entries stays behind the one before it.
    let (mut before, mut keys) = (0, BTreeMap::new());
    for (file, (_, start)) in files {
        before = if file == active { u64::MAX } else { start.unwrap_or(before) };
        keys.insert(file, before);
    }
    runs.sort_by_key(|run| (keys.get(&run.file).copied(), run.file));
}

/// What differs between runs of lines and a tree of that size.
pub(super) fn differences(runs: &[Run], size: u64) -> Differences {
    let known: Vec<usize> = (0..runs.len()).filter(|number| entries(runs, *number).is_some()).collect();
    let ranges: Vec<Range<u64>> = known.iter().filter_map(|number| entries(runs, *number)).collect();
    let chosen = in_order(&ranges);
    let mut found = Differences::default();
    let mut covered: Vec<Range<u64>> = ranges.clone();
    covered.sort_by_key(|range| (range.start, range.end));
    let covered = merged(covered);
    let in_chain: Vec<Range<u64>> =
        ranges.iter().zip(&chosen).filter(|(_, is_in)| **is_in).map(|(range, _)| range.clone()).collect();
    let mut is_in_order = vec![None; runs.len()];
    for ((number, is_in), range) in known.iter().zip(&chosen).zip(&ranges) {
        if let Some(place) = is_in_order.get_mut(*number) {
            *place = Some(*is_in);
        }
        if !is_in {
            let behind = in_chain.partition_point(|other| other.end <= range.start);
            let is_copy = in_chain.get(behind).is_some_and(|other| other.start < range.end);
            found.moved.push(Moved { run: *number, is_copy });
        }
    }
    let (mut gap, mut entry) = (Gap::default(), 0);
    for (number, is_in) in is_in_order.iter().enumerate() {
        match is_in {
            None => gap.strangers.push(number),
            Some(false) => {}
            Some(true) => {
                let range = entries(runs, number).unwrap_or_default();
                gap.missing = without(entry..range.start, &covered);
                if !gap.missing.is_empty() || !gap.strangers.is_empty() {
                    gap.next = Some(number);
                    found.gaps.push(std::mem::take(&mut gap));
                }
                (entry, found.last) = (range.end, Some(number));
            }
        }
    }
    gap.missing = without(entry..size, &covered);
    if !gap.missing.is_empty() || !gap.strangers.is_empty() {
        found.gaps.push(gap);
    }
    found
}

/// Entries whose lines are others, one for one: which, and the lines' hashes.
pub(super) fn in_their_place(runs: &[Run], gaps: &[Gap]) -> BTreeMap<u64, (Hash, usize, u64)> {
    let mut other = BTreeMap::new();
    for gap in gaps {
        let (missing, strangers) = (count(&gap.missing), lines(runs, &gap.strangers));
        // At the end of the log, lines follow that are signed later.
        if missing != strangers && (gap.next.is_some() || strangers < missing) {
            continue;
        }
        let strangers = gap.strangers.iter().filter_map(|number| runs.get(*number).zip(Some(*number)));
        let mut missing = gap.missing.iter().cloned().flatten();
        for (run, number) in strangers {
            let What::Unknown(kept) = &run.what else { continue };
            let hashes = kept.iter().map(|(hash, _)| Some(hash)).chain(std::iter::repeat(None));
            let within = 0..run.lines;
            for ((hash, within), entry) in hashes.zip(within).zip(&mut missing) {
                // More are not kept.
                let Some(hash) = hash else { continue };
                other.insert(entry, (*hash, number, within));
            }
        }
    }
    other
}

pub(super) fn entries(runs: &[Run], number: usize) -> Option<Range<u64>> {
    let run = runs.get(number)?;
    run.entry().map(|entry| entry..entry + run.lines)
}

pub(super) fn count(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

pub(super) fn lines(runs: &[Run], numbers: &[usize]) -> u64 {
    numbers.iter().filter_map(|number| runs.get(*number)).map(|run| run.lines).sum()
}

/// Ranges that are sorted by their starts, without overlaps.
fn merged(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What of a range is in none of these.
fn without(range: Range<u64>, covered: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut left, mut start) = (Vec::new(), range.start);
    let first = covered.partition_point(|other| other.end <= range.start);
    for other in covered.iter().skip(first).take_while(|other| other.start < range.end) {
        if start < other.start {
            left.push(start..other.start);
        }
        start = start.max(other.end);
    }
    if start < range.end {
        left.push(start..range.end);
    }
    left
}
