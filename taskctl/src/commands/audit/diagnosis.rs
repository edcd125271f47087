//! Names what differs between a log and its tree, once it is known that something does: the log is read a second time.
//!
//! # Invariants
//!
//! 1. *Every entry and every line is accounted for*: as a line that is its entry in its place, or in a finding; so is
//!    every tile, and every anchor.
//! 2. *One change hides no other*, of whatever length it is: all lines are placed first, and explained then.
//! 3. *Memory is bounded*, as `mapping` and `judge` say, and the time for each line is.

mod chain;
mod explain;
mod gaps;
mod index;
mod judge;
mod mapping;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use audit_tree::{Checkpoint, TILE};
use task_events::operate::Progress as _;

use super::anchors::{ANOTHER, Anchor, KAFKA};
use super::findings::{Findings, Kind, hex};
use super::pipeline;
use crate::log_files::LogFile;
use crate::progress::Progress;
use explain::{Behind, Explanation};
use gaps::{differences, in_their_place, sort_by_entries};
use judge::{Lines, judge};
use mapping::{Limits, Line, Mapping, Run, What};
use stored::Stored;

pub(super) use stored::read_tile;

/// What was found beside the findings.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// Lines behind the checkpoint, and where the first of them is.
    pub(super) uncovered: u64,
    pub(super) first_uncovered: Option<String>,
    /// Anchors of Kafka that were compared.
    pub(super) compared: u64,
}

/// Compares the lines of a log with the tree in a folder, and both with what others have of them.
pub(super) fn diagnose(
    files: &[LogFile],
    folder: &Path,
    checkpoint: &Checkpoint,
    anchors: &[Anchor],
    findings: &mut Findings,
) -> io::Result<Diagnosis> {
    diagnose_within(files, folder, checkpoint, anchors, findings, Limits::default())
}

fn diagnose_within(
    files: &[LogFile],
    folder: &Path,
    checkpoint: &Checkpoint,
    anchors: &[Anchor],
    findings: &mut Findings,
    limits: Limits,
) -> io::Result<Diagnosis> {
    let mut stored = Stored::new(folder.to_owned(), checkpoint.size);
    let wanted: BTreeSet<u64> = anchors.iter().map(|anchor| anchor.size / TILE).collect();
    let mut mapping = Mapping::new(&mut stored, wanted.clone(), limits);
    let damaged = place_lines(files, &mut mapping)?;
    let Mapping { mut runs, rows, roots, left_out, .. } = mapping;
    sort_by_entries(&mut runs, files.len().saturating_sub(1));
    let found = differences(&runs, checkpoint.size);
    let other = in_their_place(&runs, &found.gaps);
    let hashes = other.iter().map(|(entry, (hash, _, _))| (*entry, *hash)).collect();
    let lines = Lines { other: hashes, rows, roots };
    let verdict = judge(&mut stored, &checkpoint.root, &lines, &wanted);
    if verdict.root_differs {
        findings.add(Kind::Root, || {
            format!("the root of the first {} entries is not that of the checkpoint: {} was changed, or its tiles were", checkpoint.size, folder.join("checkpoint").display())
        });
    }
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let (size, verdict) = (checkpoint.size, &verdict);
    let explanation = Explanation {
        names: &names,
        runs: &runs,
        found: &found,
        other: &other,
        verdict,
        damaged: &damaged,
        left_out,
        size,
    };
    let Behind { lines: uncovered, first } = explanation.add_to(findings, &stored);
    let compared = compare(&mut stored, checkpoint, verdict, (&runs, uncovered), anchors, findings);
    Ok(Diagnosis { uncovered, first_uncovered: first, compared })
}

/// Finds the place of each line. The files that could not be read to their end.
fn place_lines(files: &[LogFile], mapping: &mut Mapping<'_>) -> io::Result<BTreeSet<usize>> {
    let bytes = files.iter().map(|file| file.bytes).sum();
    let mut progress = Progress::new("looking for what differs", bytes, "bytes");
    let mut damaged = BTreeSet::new();
    let (mut file, mut number) = (0, 0);
    pipeline::for_each_block(files, true, |block| {
        progress.add(block.block.length as u64);
        if block.block.file != file {
            (file, number) = (block.block.file, 0);
        }
        let mut at = block.block.at;
        for line in &block.lines {
            number += 1;
            mapping.take(Line { file, number, at, hash: line.leaf });
            at += line.length as u64;
        }
        if block.block.damage.is_some() {
            damaged.insert(file);
        }
    })?;
    mapping.finish();
    Ok(damaged)
}

/// Compares the roots that others have with those of the tree, and of the lines behind it.
fn compare(
    stored: &mut Stored,
    checkpoint: &Checkpoint,
    verdict: &judge::Verdict,
    (runs, uncovered): (&[Run], u64),
    anchors: &[Anchor],
    findings: &mut Findings,
) -> u64 {
    let size = checkpoint.size;
    let mut behind = last_hashes(runs, uncovered).into_iter();
    let mut end = verdict.end(stored);
    let mut compared = 0;
    let mut anchors: Vec<&Anchor> = anchors.iter().collect();
    anchors.sort_by_key(|anchor| anchor.size);
    for Anchor { origin, size: of, root, place, by } in anchors {
        let is_own = *origin == checkpoint.origin;
        if *of > size + uncovered {
            let last = size + uncovered;
            findings.add(Kind::Root, || match is_own {
                true => format!("{by} has an anchor of {of} lines, and the log has {last}: it was truncated, or restored from an older copy"),
                false => format!("{by} has an anchor of {of} lines of another tree, {origin} ({place}), and the log has {last}: {ANOTHER}"),
            });
            continue;
        }
        let known = if *of <= size {
            verdict.root_at(stored, *of)
        } else {
            end.as_mut().and_then(|rows| {
                while rows.size() < *of {
                    rows.push(behind.next()?, &mut |_, _| {});
                }
                Some(rows.root())
            })
        };
        let Some(known) = known else {
            findings.add(Kind::Root, || {
                format!("{by} has an anchor of {of} lines of {origin} ({place}), and it cannot be compared")
            });
            continue;
        };
        compared += u64::from(*by == KAFKA);
        if hex(&known) != *root {
            findings.add(Kind::Root, || match is_own {
                true => format!("{by} has another root of the first {of} lines ({place}): log and tree were rewritten"),
                false => format!("{by} has another root of the first {of} lines by another tree, {origin} ({place}): {ANOTHER}"),
            });
        }
    }
    compared
}

/// The hashes of the last lines, as far as they are kept.
fn last_hashes(runs: &[Run], lines: u64) -> Vec<audit_tree::Hash> {
    let mut left = lines;
    let mut parts: Vec<Vec<audit_tree::Hash>> = Vec::new();
    for run in runs.iter().rev() {
        let What::Unknown(kept) = &run.what else { break };
        let from = run.lines.saturating_sub(left);
        if (kept.len() as u64) < run.lines {
            // Those behind them are of no use without these.
            parts.clear();
        }
        let hashes = kept.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)).map(|(hash, _)| *hash);
        parts.push(hashes.collect());
        left -= run.lines.min(left);
        if left == 0 {
            break;
        }
    }
    parts.into_iter().rev().flatten().collect()
}
