//! What is beside a log: its tree, and older ones that were set aside.

use std::io;
use std::path::{Path, PathBuf};

use audit_tree::Verifier;

use super::anchors::Anchor;
use super::tree::{self, TreeCheck};

/// The tree beside a log, and what it cannot be compared with. A tree that Kafka knows and that is not there is an error.
pub(super) fn tree_beside(
    path: &Path,
    verifier: Option<&Verifier>,
    anchors: Option<Vec<Anchor>>,
) -> io::Result<(Option<TreeCheck>, Vec<String>)> {
    let folder = with_suffix(path, ".tree");
    let mut not_checked = Vec::new();
    if anchors.is_none() {
        not_checked.push("what Kafka has of the tree, against whoever has the key: give --kafka".to_owned());
    }
    let anchors = anchors.unwrap_or_default();
    let tree = tree::open(&folder, verifier, anchors.clone())?;
    let older = older_trees(path)?;
    match &tree {
        Some(_) if verifier.is_none() => {
            not_checked.push("who signed the tree: give --public-key".to_owned())
        }
        Some(_) => {}
        None => {
            not_checked.push(format!("whether a line was changed: there is no tree {}", folder.display()))
        }
    }
    let origin = tree.as_ref().map(|tree| tree.checkpoint.origin.clone());
    for aside in &older {
        not_checked.push(format!("the lines of an older tree, set aside as {}", aside.display()));
    }
    let mut others: Vec<&Anchor> =
        anchors.iter().filter(|anchor| Some(&anchor.origin) != origin.as_ref()).collect();
    others.sort_by(|one, other| (&one.origin, other.size).cmp(&(&other.origin, one.size)));
    others.dedup_by(|one, other| one.origin == other.origin);
    for Anchor { origin, size, .. } in &others {
        not_checked.push(format!("another tree of this group that Kafka knows, with {size} lines: {origin}"));
    }
    if tree.is_none() && !anchors.is_empty() {
        return Err(io::Error::other(format!(
            "Kafka knows a tree of this group, and none is here: {} is missing",
            folder.display()
        )));
    }
    Ok((tree, not_checked))
}

/// The folders of trees that were set aside.
fn older_trees(path: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = with_suffix(path, ".tree.");
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut older = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            older.push(entry.path());
        }
    }
    older.sort();
    Ok(older)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
