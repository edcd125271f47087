//! The order of a log's files where a tree is beside it: that of their entries. The time in a file's first line, by which
//! they are sorted otherwise, may be what was changed.
//!
//! # Invariants
//!
//! 1. *A file is moved only to where its lines are entries*: one of its first lines has the leaf that it has to have where
//!    the tree says that a file begins. The tree's word is taken for where to look, and for nothing else.
//! 2. *One that is not found stays behind the one before it*, and the log itself is the last.

use std::collections::HashMap;
use std::io;

use audit_tree::{Tiles, leaf_hash};

use crate::log_files::LogFile;

/// Lines of a file of which one has to be an entry.
const LINES: u64 = 8;

/// Sorts the files of a log by where the tree has their lines. `starts`: the entries that files begin with, as the tree says.
pub(super) fn sort_by_tree(files: &mut [LogFile], tiles: &mut Tiles, starts: &[u64]) -> io::Result<()> {
    let Some((_, segments)) = files.split_last_mut() else { return Ok(()) };
    if segments.len() < 2 {
        return Ok(());
    }
    let mut entries = HashMap::new();
    for start in starts {
        for entry in *start..start.saturating_add(LINES).min(tiles.size()) {
            if let Ok(leaf) = tiles.leaf(entry) {
                entries.insert(leaf, entry);
            }
        }
    }
    let (mut keys, mut before) = (HashMap::new(), 0);
    for file in segments.iter() {
        let mut lines = file.lines()?;
        while let Ok(Some(line)) = lines.next() {
            let leaf = leaf_hash(line.bytes.strip_suffix(b"\n").unwrap_or(line.bytes));
            if let Some(entry) = entries.get(&leaf) {
                before = entry.saturating_sub(line.number - 1);
                break;
            }
            if line.number >= LINES {
                break;
            }
        }
        keys.insert(file.path.clone(), before);
    }
    segments.sort_by_key(|file| keys.get(&file.path).copied());
    Ok(())
}
