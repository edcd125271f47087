//! What a witness has cosigned of a log's tree: the newest checkpoint with its cosignature, beside the tree's tiles.

use std::fs;
use std::io;
use std::path::Path;

use audit_tree::{Checkpoint, Witness};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::anchors::Anchor;
use super::findings::hex;

/// How far a witness covers a log. An older file fits as well, so a reader has to see how old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Cosigned {
    pub(super) witness: String,
    /// The first lines, which are not what they were unless they have the root that was cosigned.
    pub(super) lines: u64,
    /// When the witness cosigned them, by its clock.
    pub(super) time: String,
    /// Lines that came later: the witness says nothing about them.
    pub(super) behind: u64,
}

/// The size and root that the witness has cosigned, to be compared as one that Kafka has. What is not cosigned is an error:
/// it was asked for.
pub(super) fn read(folder: &Path, witness: &Witness, origin: &str) -> io::Result<(Anchor, Cosigned)> {
    let path = folder.join("witnessed");
    let failed = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let note = fs::read_to_string(&path).map_err(|error| {
        failed(format!("{error}: no witness has cosigned this tree, or that was removed"))
    })?;
    let checkpoint = Checkpoint::read(&note).map_err(|error| failed(error.to_string()))?;
    let signatures = note.split_once("\n\n").map_or("", |(_, signatures)| signatures);
    let Some((_, time)) = witness.find(&note, signatures) else {
        let name = witness.name();
        return Err(failed(format!(
            "it has no cosignature by this key of {name}: it was forged or changed, or the key is another's"
        )));
    };
    if checkpoint.origin != origin {
        return Err(failed(format!("it is of another tree, {}", checkpoint.origin)));
    }
    let Checkpoint { origin, size, root } = checkpoint;
    let at = i64::try_from(time).ok().and_then(|time| DateTime::from_timestamp(time, 0));
    let time = at.map_or_else(|| time.to_string(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    let cosigned = Cosigned { witness: witness.name().to_owned(), lines: size, time, behind: 0 };
    let (root, place) = (hex(&root), format!("witness {}", witness.name()));
    Ok((Anchor { origin, size, root, place, by: "The witness" }, cosigned))
}
