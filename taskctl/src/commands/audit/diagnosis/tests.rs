//! Small logs with their trees, to which something is done: what is said of it, all of it and nothing else.

use std::fs;
use std::path::PathBuf;

use audit_tree::{Hash, Rows, Signer, Tile, leaf_hash};

use super::super::findings::SHOWN;
use super::super::{lines, tree};
use super::*;
use crate::log_files::files;

mod blocks;
mod files;
mod tiles;

/// Lines in the first file, and in all.
const SEGMENT: usize = 700;
const LINES: usize = 2_000;

/// Little is kept, so that all that is left out is looked for: an index of some leaves, and few lines that wait.
const LITTLE: Limits = Limits { samples: 64, pending: 48, runs: 1_000, unknown: 1_000 };

pub(super) struct Rig {
    folder: tempfile::TempDir,
    checkpoint: Checkpoint,
    anchors: Vec<Anchor>,
    /// The lines that the tree is of.
    lines: Vec<String>,
}

fn line(number: usize) -> String {
    format!("{{\"audited_at\":\"2026-01-15T10:30:00.{number:06}Z\",\"n\":{number}}}")
}

/// Lines that are in no tree.
fn others(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{{\"audited_at\":\"2027\",\"other\":{number}}}")).collect()
}

fn segment() -> String {
    format!("audit-{:020}.log", 0)
}

impl Rig {
    /// One file.
    fn new() -> Self {
        let rig = Self::of(LINES);
        rig.put("audit.log", &rig.lines);
        rig
    }

    /// A segment and the log.
    fn with_segment() -> Self {
        let rig = Self::of(LINES);
        rig.put(&segment(), &rig.lines[..SEGMENT]);
        rig.put("audit.log", &rig.lines[SEGMENT..]);
        rig
    }

    /// A tree of so many lines, of which Kafka has some roots.
    fn of(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = (0..count).map(line).collect();
        let mut rows = Rows::default();
        let mut anchors = Vec::new();
        let write = |tile: Tile, hashes: &[Hash]| {
            let path = tile.path(folder.path());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, hashes.concat()).unwrap();
        };
        for line in &lines {
            rows.push(leaf_hash(line.as_bytes()), &mut |tile, hashes| write(tile, hashes));
            let size = rows.size();
            if [1, 300, 1_024, 1_999, 2_000].contains(&size) {
                let (origin, root, place) = ("o".to_owned(), hex(&rows.root()), "group/topic/0".to_owned());
                anchors.push(Anchor { origin, size, root, place, by: KAFKA });
            }
        }
        rows.partials().for_each(|(tile, hashes)| write(tile, hashes));
        let checkpoint = Checkpoint { origin: "o".to_owned(), size: rows.size(), root: rows.root() };
        Self { folder, checkpoint, anchors, lines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, lines: &[String]) {
        fs::write(self.path(name), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    fn tile(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path("tile").join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    /// What the command counts, which looks for what differs only if something does.
    fn verify(&self) -> (u64, u64) {
        let note = self.checkpoint.sign(&Signer::from_seed(&[1; 32]));
        fs::write(self.path("checkpoint"), note).unwrap();
        let mut files = files(&self.path("audit.log")).unwrap();
        let tree = tree::open(self.folder.path(), None, self.anchors.clone(), SHOWN).unwrap().unwrap();
        tree.sort(&mut files).unwrap();
        let found = lines::verify(&files, Some(tree), SHOWN).unwrap().tree.unwrap();
        (found.wrong, found.uncovered)
    }

    /// All that is found, without the folder's name.
    fn found_within(&self, limits: Limits) -> Vec<String> {
        let files = files(&self.path("audit.log")).unwrap();
        let mut findings = Findings::default();
        let found = diagnose_within(
            &files,
            self.folder.path(),
            &self.checkpoint,
            &self.anchors,
            &mut findings,
            limits,
        );
        let mut lines = findings.into_lines();
        let behind = found.unwrap();
        if behind.uncovered > 0 {
            lines.push(format!("{} behind from {}", behind.uncovered, behind.first_uncovered.unwrap()));
        }
        let folder = format!("{}/", self.folder.path().display());
        lines.into_iter().map(|line| line.replace(&folder, "")).collect()
    }

    /// The same, whether much is kept or little.
    fn found(&self) -> Vec<String> {
        let found = self.found_within(Limits::default());
        assert_eq!(self.found_within(LITTLE), found, "with an index of some leaves");
        let (wrong, behind) = self.verify();
        assert_eq!(wrong + u64::from(behind > 0), found.len() as u64, "by the command: {found:#?}");
        found
    }
}

/// Compares findings with the beginnings of those that are expected, all of them.
#[track_caller]
fn assert_found(found: &[String], expected: &[&str], what: &str) {
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| {
            let mut rest = found.as_str();
            expected.split("..").all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
        });
    assert!(fits, "{what}: {found:#?} is not {expected:#?}");
}

#[test]
fn an_untouched_log_has_no_difference_whatever_is_kept() {
    assert_found(&Rig::new().found(), &[], "one file");
    assert_found(&Rig::with_segment().found(), &[], "two files");
    let rig = Rig::of(0);
    rig.put("audit.log", &[]);
    assert_found(&rig.found(), &[], "no lines");
    let rig = Rig::of(1);
    rig.put("audit.log", &rig.lines);
    assert_found(&rig.found(), &[], "one line");
    let rig = Rig::new();
    rig.put("audit.log", &[rig.lines.clone(), others(3)].concat());
    assert_found(&rig.found(), &["3 behind from audit.log:2001 (byte"], "lines that are not signed yet");
}
