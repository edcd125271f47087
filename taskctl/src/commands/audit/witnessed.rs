//! What a witness has cosigned of a log's tree: the newest checkpoint with its cosignature, beside the tree's tiles.

use std::fs;
use std::io;
use std::path::Path;

use audit_tree::{Checkpoint, Witness};

use super::anchors::Anchor;
use super::findings::hex;

/// The size and root that the witness has cosigned, to be compared as one that Kafka has. What is not cosigned is an error:
/// it was asked for.
pub(super) fn read(folder: &Path, witness: &Witness, origin: &str) -> io::Result<Anchor> {
    let path = folder.join("witnessed");
    let failed = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let note = fs::read_to_string(&path).map_err(|error| {
        failed(format!("{error}: no witness has cosigned this tree, or that was removed"))
    })?;
    let checkpoint = Checkpoint::read(&note).map_err(|error| failed(error.to_string()))?;
    let signatures = note.split_once("\n\n").map_or("", |(_, signatures)| signatures);
    if witness.find(&note, signatures).is_none() {
        let name = witness.name();
        return Err(failed(format!(
            "it has no cosignature by this key of {name}: it was forged or changed, or the key is another's"
        )));
    }
    if checkpoint.origin != origin {
        return Err(failed(format!("it is of another tree, {}", checkpoint.origin)));
    }
    let Checkpoint { origin, size, root } = checkpoint;
    Ok(Anchor {
        origin,
        size,
        root: hex(&root),
        place: format!("witness {}", witness.name()),
        by: "The witness",
    })
}
