//! Has a witness cosign the tree's checkpoints (c2sp.org/tlog-witness): what it has cosigned it never cosigns otherwise, so
//! a log that was rewritten together with its tree, key and anchors is found against what the witness has signed.
//!
//! # Invariants
//!
//! 1. *The log never waits for it*: this is a task beside it, which reads the tree's files and nothing else of it.
//! 2. *It takes bounded time and memory*: one request at a time, [`TIMEOUT`] for each, 16 KiB of its answer's head and body.
//! 3. *Only what was verified is kept, and only that is believed*: a cosignature by the witness's key, on the checkpoint that
//!    was sent. Checkpoint and cosignature are in the tree's folder as `witnessed`; the next request goes on from there, if
//!    the cosignature still holds.
//! 4. *A trouble lasts until the newest checkpoint is known to be cosigned*: having nothing to submit ends none.

mod exchange;

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use audit_tree::{Checkpoint, Tiles, Witness};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use task_events::disk::{FileSystem, replace};
use task_events::http_client::Url;
use task_events::log_once::LogOnce;
use task_events::tls::{Tls, TlsFiles, TlsVariables};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use self::exchange::{Answer, submit};
use super::AuditError;
use super::tree::Commits;

/// Time between two requests. What was logged since the last one is not cosigned where the service stops.
const EVERY: Duration = Duration::from_secs(5);
/// Time for a request, from the name's resolution to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// In the tree's folder: the newest checkpoint that was cosigned, with the cosignature.
const WITNESSED: &str = "witnessed";

/// Which witness to ask.
#[derive(Debug, Clone)]
pub struct WitnessSettings {
    /// Where requests go, without `/add-checkpoint`.
    pub url: Url,
    /// Whose cosignature counts.
    pub witness: Witness,
    /// For an https address.
    pub tls: Option<Tls>,
}

/// By which variable the certificates of a witness are configured, for messages.
const VARIABLES: TlsVariables = TlsVariables { ca: "AUDIT_WITNESS_CA_FILE", identity: None };

impl WitnessSettings {
    /// Reads the witness's key and, for an https address, the CAs. Blocks.
    pub fn load(url: Url, key_file: &Path, ca: Option<PathBuf>) -> Result<Self, AuditError> {
        let failed = |why: String| AuditError::Witness { why };
        let named = |why: &dyn Display| failed(format!("{}: {why}", key_file.display()));
        let text = fs::read_to_string(key_file).map_err(|error| named(&error))?;
        let witness = Witness::from_vkey(&text)
            .ok_or_else(|| named(&"it is no key of a witness, as NAME+ID+KEY of cosignature/v1"))?;
        if url.path().contains('?') {
            return Err(failed("AUDIT_WITNESS_URL has a query, which no witness has".to_owned()));
        }
        if ca.is_some() && !url.has_tls() {
            return Err(failed(format!("{} needs an https address in AUDIT_WITNESS_URL", VARIABLES.ca)));
        }
        let files = TlsFiles { ca, identity: None, variables: &VARIABLES };
        let tls = url.has_tls().then(|| Tls::load(files)).transpose().map_err(failed)?;
        Ok(Self { url, witness, tls })
    }
}

/// What is sent.
#[derive(Debug)]
struct Submission {
    folder: PathBuf,
    note: String,
    checkpoint: Checkpoint,
    /// The size that the witness has, as far as known.
    old: u64,
    body: String,
}

/// What is to be done.
#[derive(Debug)]
enum Next {
    /// There is no line yet.
    Nothing,
    /// The newest checkpoint is cosigned.
    Cosigned,
    Submit(Submission),
}

impl Submission {
    /// The newest checkpoint of the tree in the folder. What the witness has cosigned of this tree, and the tree has not, is
    /// an error.
    fn next(folder: &Path, witness: &Witness) -> io::Result<Next> {
        let Some(note) = read_if_there(&folder.join("checkpoint"))? else { return Ok(Next::Nothing) };
        let checkpoint = Checkpoint::read(&note).map_err(io::Error::other)?;
        let before = read_if_there(&folder.join(WITNESSED))?;
        let before = before.and_then(|note| cosigned(&note, witness));
        let before = before.filter(|before| before.origin == checkpoint.origin);
        let old = before.as_ref().map_or(0, |before| before.size);
        match before {
            Some(before) if before.size > checkpoint.size => {
                return Err(io::Error::other(restored(before.size, checkpoint.size)));
            }
            Some(before) if before.size == checkpoint.size && before.root == checkpoint.root => {
                return Ok(Next::Cosigned);
            }
            Some(before) if before.size == checkpoint.size => return Err(io::Error::other(ANOTHER_ROOT)),
            _ if checkpoint.size == 0 => return Ok(Next::Nothing),
            _ => {}
        }
        Self::from(folder.to_owned(), note, checkpoint, old).map(Next::Submit)
    }

    /// The same for a witness that has another size.
    fn from(folder: PathBuf, note: String, checkpoint: Checkpoint, old: u64) -> io::Result<Self> {
        let path = Tiles::new(&folder, checkpoint.size).consistency(old)?;
        let path: String = path.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
        let body = format!("old {old}\n{path}\n{note}");
        Ok(Self { folder, note, checkpoint, old, body })
    }

    fn keep(&self, cosignature: &str) -> io::Result<()> {
        let bytes = format!("{}{cosignature}\n", self.note);
        let (path, new) = (self.folder.join(WITNESSED), self.folder.join("witnessed.new"));
        replace(&FileSystem, &path, &new, bytes.as_bytes())
    }
}

/// The checkpoint of a note that the witness has cosigned.
fn cosigned(note: &str, witness: &Witness) -> Option<Checkpoint> {
    let (_, signatures) = note.split_once("\n\n")?;
    witness.find(note, signatures)?;
    Checkpoint::read(note).ok()
}

const ANOTHER_ROOT: &str = "it has another root of as many lines: log and tree were rewritten";

fn restored(cosigned: u64, size: u64) -> String {
    format!(
        "it has cosigned {cosigned} lines of this tree, and the tree has {size}: it was restored from an older copy"
    )
}

/// Asks the witness again and again, until the process ends.
pub(super) async fn run(folder: PathBuf, settings: WitnessSettings, commits: Commits) {
    let mut log = LogOnce::new(module_path!());
    loop {
        sleep(EVERY).await;
        match ask(&folder, &settings).await {
            Ok(false) => {}
            Ok(true) => {
                commits.witness_failed(None);
                log.over(&format!("witness {} has cosigned the tree again", settings.witness.name()));
            }
            Err(why) => {
                // The URL as far as it is shown: its path may be a secret.
                let text = format!(
                    "witness {} at {:?} has not cosigned the tree of the audit log: {why}; the log goes on",
                    settings.witness.name(),
                    settings.url
                );
                commits.witness_failed(Some(text.clone()));
                log.warn(&text);
            }
        }
    }
}

/// Has the newest checkpoint cosigned, if that is not done. Whether it is known to be.
async fn ask(folder: &Path, settings: &WitnessSettings) -> Result<bool, String> {
    let (tree, witness) = (folder.to_owned(), settings.witness.clone());
    let mut next = match blocking(move || Submission::next(&tree, &witness)).await? {
        Next::Nothing => return Ok(false),
        Next::Cosigned => return Ok(true),
        Next::Submit(next) => next,
    };
    let mut answer = send(settings, &next.body).await?;
    // It has another size than was noted here: once more from there.
    if let Some(old) = answer.size().filter(|old| *old != next.old && *old <= next.checkpoint.size) {
        next = blocking(move || Submission::from(next.folder, next.note, next.checkpoint, old)).await?;
        answer = send(settings, &next.body).await?;
    }
    if answer.status != 200 {
        return Err(refusal(&answer, next.old, next.checkpoint.size));
    }
    let Some((line, _)) = settings.witness.find(&next.note, &answer.body) else {
        return Err("its answer has no cosignature by its key".to_owned());
    };
    let line = line.to_owned();
    blocking(move || next.keep(&line)).await.map(|()| true)
}

/// What it means that a checkpoint of `size` lines was refused, submitted as the successor of one of `old` lines.
///
/// Only what nobody but the witness says, and no delay explains, is held against the log: a 409 may be a proxy's, and a
/// request that timed out here may be done by the witness before the next one.
fn refusal(answer: &Answer, old: u64, size: u64) -> String {
    match (answer.status, answer.size()) {
        (403, _) => "it does not know the key of this log (403): give it the tree's vkey".to_owned(),
        (404, _) => "it does not know this tree (404): give it the tree's vkey".to_owned(),
        (409, Some(has)) if has > size => restored(has, size),
        (409, Some(has)) if has == old && old == size => ANOTHER_ROOT.to_owned(),
        (409, Some(_)) => "it has another size again (409), and is asked again".to_owned(),
        (409, None) => "it answered 409 without the size that it has".to_owned(),
        (422, _) => {
            "what it has cosigned is not the beginning of this tree (422): log and tree were rewritten"
                .to_owned()
        }
        (status, _) => format!("it answered {status}"),
    }
}

async fn send(settings: &WitnessSettings, body: &str) -> Result<Answer, String> {
    let asked = submit(&settings.url, settings.tls.as_ref(), body.to_owned());
    timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
