//! `taskctl audit prove` and `check`: that an event is in a log, for somebody who has neither log nor tree.
//!
//! A proof is a text as c2sp.org/tlog-proof says: the line as `extra`, its number, the hashes beside its way to the root,
//! and the checkpoint.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use audit_tree::{Checkpoint, Hash, Proof, Tiles, Verifier, leaf_hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use memchr::memmem::Finder;
use serde::Deserialize;
use task_events::error_code::Code;
use task_events::operate::Progress as _;
use uuid::Uuid;

use super::keygen;
use crate::Error;
use crate::log_files::files;
use crate::progress::Progress;

/// The first line of a proof.
const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// The longest proof, in bytes: a line, 64 hashes and a checkpoint.
const MAX_PROOF: u64 = 4 * 1024 * 1024;

/// What to prove.
#[derive(Debug, Args)]
pub struct Prove {
    /// The audit log; its tree is beside it
    path: PathBuf,
    /// The id of the event
    event_id: Uuid,
}

/// What to check.
#[derive(Debug, Args)]
pub struct Check {
    /// The proof
    proof: PathBuf,
    /// The public key of the log, in PEM
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
}

/// Writes the proof to stdout.
pub fn prove(args: &Prove) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::Refused(
            Code::File,
            format!("event {} of audit log {} cannot be proved: {error}", args.event_id, args.path.display()),
        )
    };
    let not_found = |why: &str| {
        Error::Refused(
            Code::NotFound,
            format!("event {} {why} of audit log {}", args.event_id, args.path.display()),
        )
    };
    let line = line_of(&args.path, args.event_id).map_err(failed)?;
    let line = line.ok_or_else(|| not_found("is in no line"))?;
    let mut folder = args.path.as_os_str().to_owned();
    folder.push(".tree");
    let folder = PathBuf::from(folder);
    let note = fs::read_to_string(folder.join("checkpoint")).map_err(failed)?;
    let checkpoint = Checkpoint::read(&note).map_err(|error| failed(io::Error::other(error)))?;
    let mut tiles = Tiles::new(&folder, checkpoint.size);
    let leaf = leaf_hash(&line);
    let mut progress = Progress::new("looking for the entry", checkpoint.size, "entries");
    let mut index = None;
    let mut unread = None;
    for entry in 0..checkpoint.size {
        progress.add(1);
        match tiles.leaf(entry) {
            Ok(found) if found == leaf => {
                index = Some(entry);
                break;
            }
            Ok(_) => {}
            Err(error) => {
                unread.get_or_insert(error);
            }
        }
    }
    drop(progress);
    if let Some(error) = unread.filter(|_| index.is_none()) {
        return Err(failed(error));
    }
    let index = index.ok_or_else(|| {
        not_found("is not in the tree yet, or its line was changed: see `taskctl audit verify`, as part")
    })?;
    let proof = Proof { index, path: tiles.inclusion(index).map_err(failed)? };
    if proof.root(checkpoint.size, leaf) != Some(checkpoint.root) {
        return Err(failed(io::Error::other(
            "the tree beside it does not lead to its checkpoint; see `taskctl audit verify`",
        )));
    }
    Ok(io::stdout().write_all(render(&line, &proof, &note).as_bytes())?)
}

/// Checks a proof, and writes the event to stdout.
pub fn check(args: &Check) -> Result<(), Error> {
    let verifier = keygen::read(&args.public_key)?;
    let refused = |code, why: String| Error::Refused(code, format!("proof {}: {why}", args.proof.display()));
    let length = fs::metadata(&args.proof).map_err(|error| refused(Code::File, error.to_string()))?.len();
    if length > MAX_PROOF {
        return Err(refused(
            Code::File,
            format!("it has {length} bytes, and no proof has more than {MAX_PROOF}"),
        ));
    }
    let text = fs::read_to_string(&args.proof).map_err(|error| refused(Code::File, error.to_string()))?;
    let (line, checkpoint, index) =
        open(&text, &verifier).map_err(|why| refused(Code::ChecksFailed, why.to_owned()))?;
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    writeln!(out, "\nproved: entry {index} of the {} of {}", checkpoint.size, checkpoint.origin)?;
    Ok(())
}

/// The line of an event, without its end.
fn line_of(path: &Path, id: Uuid) -> io::Result<Option<Vec<u8>>> {
    #[derive(Deserialize)]
    struct Line {
        event_id: Uuid,
    }
    let (text, files) = (id.to_string(), files(path)?);
    let finder = Finder::new(&text);
    let mut progress =
        Progress::new("looking for the event", files.iter().map(|file| file.bytes).sum(), "bytes");
    // The event may be in a file behind one that cannot be read.
    let mut unread = None;
    for file in files {
        let mut lines = file.lines()?;
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    unread.get_or_insert(error);
                    break;
                }
            };
            progress.add(line.bytes.len() as u64);
            let Some(json) = line.bytes.strip_suffix(b"\n").filter(|json| finder.find(json).is_some()) else {
                continue;
            };
            if serde_json::from_slice::<Line>(json).is_ok_and(|line| line.event_id == id) {
                return Ok(Some(json.to_vec()));
            }
        }
    }
    unread.map_or(Ok(None), Err)
}

fn render(line: &[u8], proof: &Proof, note: &str) -> String {
    let hashes: String = proof.path.iter().map(|hash| format!("{}\n", STANDARD.encode(hash))).collect();
    format!("{MAGIC}\nextra {}\nindex {}\n{hashes}\n{note}", STANDARD.encode(line), proof.index)
}

/// The line that is proved, the checkpoint, and its number. Or why it is not proved.
fn open(text: &str, verifier: &Verifier) -> Result<(Vec<u8>, Checkpoint, u64), &'static str> {
    let (head, note) = text.split_once("\n\n").ok_or("it is no proof")?;
    let mut lines = head.split('\n');
    let magic = lines.next().filter(|magic| *magic == MAGIC).ok_or("it is no proof of a kind that is known");
    magic?;
    let extra =
        lines.next().and_then(|line| line.strip_prefix("extra ")).and_then(|line| STANDARD.decode(line).ok());
    let line = extra.ok_or("it has no line")?;
    let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(|line| line.parse().ok());
    let index: u64 = index.ok_or("it has no index")?;
    let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
    let path: Option<Vec<Hash>> = lines.map(hash).collect();
    let path = path.ok_or("it has what is no hash")?;
    let checkpoint = Checkpoint::open(note, verifier).map_err(
        |_| "its checkpoint is not signed by this key: it was forged or changed, or the key is another's",
    )?;
    let root = Proof { index, path }.root(checkpoint.size, leaf_hash(&line));
    if root != Some(checkpoint.root) {
        return Err(
            "the line does not lead to the root of the checkpoint: line, number or hashes were changed",
        );
    }
    Ok((line, checkpoint, index))
}

#[cfg(test)]
mod tests {
    use audit_tree::{Rows, Signer};

    use super::*;

    #[test]
    fn an_event_behind_a_file_that_cannot_be_read_is_found_and_what_is_not_found_may_be_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, id) = (folder.path().join("audit.log"), Uuid::from_u128(7));
        let line = format!("{{\"event_id\":\"{id}\"}}");
        fs::write(&log, format!("{line}\n")).unwrap();
        fs::write(folder.path().join("audit.log.1.gz"), "no gzip").unwrap();
        assert_eq!(line_of(&log, id).unwrap(), Some(line.into_bytes()));
        let error = line_of(&log, Uuid::from_u128(8)).unwrap_err().to_string();
        assert!(error.contains("audit.log.1.gz"), "{error}");
    }

    #[test]
    fn a_proof_opens_as_it_was_made_and_no_other_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = Rows::default();
        (0..5_u8).for_each(|entry| rows.push(leaf_hash(&[b'0' + entry]), &mut |_, _| {}));
        for (tile, hashes) in rows.partials() {
            let path = tile.path(folder.path());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, hashes.concat()).unwrap();
        }
        let signer = Signer::from_seed(&[1; 32]);
        let checkpoint = Checkpoint { origin: "o".to_owned(), size: 5, root: rows.root() };
        let path = Tiles::new(folder.path(), 5).inclusion(3).unwrap();
        let text = render(b"3", &Proof { index: 3, path }, &checkpoint.sign(&signer));
        let verifier = signer.verifier();
        assert_eq!(open(&text, &verifier).unwrap(), (b"3".to_vec(), checkpoint, 3));
        assert!(
            open(&text, &Signer::from_seed(&[2; 32]).verifier())
                .unwrap_err()
                .contains("not signed by this key")
        );
        let line = STANDARD.encode(b"3");
        for (from, to) in [
            (line.as_str(), "NA=="),
            ("index 3", "index 2"),
            ("index 3", "index 9"),
            ("@v1", "@v2"),
            ("\n\n", "\n"),
            ("extra ", "other "),
        ] {
            assert!(open(&text.replacen(from, to, 1), &verifier).is_err(), "{from} {to}");
        }
    }
}
