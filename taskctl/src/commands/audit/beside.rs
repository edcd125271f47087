//! What is beside a log: its tree, and older ones that were set aside.

use std::io;
use std::path::{Path, PathBuf};

use audit_tree::{Verifier, Witness};

use super::anchors::Anchor;
use super::findings::Kind;
use super::tree::{self, TreeCheck};
use super::witnessed;

/// The tree beside a log, and what it cannot be compared with. Where a signature or Kafka was asked for, a tree that is not
/// there is an error, and so is one that Kafka has no anchor of. So many findings of each kind are kept.
pub(super) fn tree_beside(
    path: &Path,
    verifier: Option<&Verifier>,
    anchors: Option<Vec<Anchor>>,
    witness: Option<&Witness>,
    findings: usize,
) -> io::Result<(Option<TreeCheck>, Vec<String>)> {
    let folder = with_suffix(path, ".tree");
    let mut not_checked = Vec::new();
    if anchors.is_none() {
        not_checked.push("what Kafka has of the tree, against whoever has the key: give --kafka".to_owned());
    }
    let is_asked = verifier.is_some() || anchors.is_some() || witness.is_some();
    let is_known = anchors.as_ref().is_some_and(|anchors| !anchors.is_empty());
    let tree = tree::open(&folder, verifier, anchors.clone().unwrap_or_default(), findings)?;
    let Some(mut tree) = tree else {
        if is_asked {
            let known = if is_known { "; Kafka has anchors of a tree of this group" } else { "" };
            return Err(io::Error::other(format!(
                "there is no tree {}: it was removed, or the service had no AUDIT_KEY_FILE{known}",
                folder.display()
            )));
        }
        not_checked.push(format!("whether a line was changed: there is no tree {}", folder.display()));
        return Ok((None, not_checked));
    };
    match witness {
        Some(witness) => {
            let (anchor, cosigned) = witnessed::read(&folder, witness, &tree.checkpoint.origin)?;
            tree.compare_with(anchor);
            tree.cosigned = Some(cosigned);
        }
        None if folder.join("witnessed").exists() => {
            not_checked.push("what a witness has cosigned of the tree: give --witness-key".to_owned());
        }
        None => {}
    }
    if verifier.is_none() {
        not_checked.push("who signed the tree: give --public-key".to_owned());
    }
    let origin = &tree.checkpoint.origin;
    if anchors.is_some_and(|anchors| !anchors.iter().any(|anchor| anchor.origin == *origin)) {
        tree.findings.add(Kind::Root, || {
            format!("Kafka has no anchor of this tree, {origin}: none was committed yet, or the offsets topic was changed")
        });
    }
    for aside in older_trees(path)? {
        not_checked.push(format!("the lines of an older tree, set aside as {}", aside.display()));
    }
    Ok((Some(tree), not_checked))
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
