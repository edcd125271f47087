//! Has a witness cosign the tree's checkpoints (c2sp.org/tlog-witness): what it has cosigned it never cosigns otherwise, so
//! a log that was rewritten together with its tree, key and anchors is found against what the witness has signed.
//!
//! # Invariants
//!
//! 1. *The log never waits for it*: this is a task beside it, which reads the tree's files and nothing else of it.
//! 2. *It takes bounded time and memory*: one request at a time, [`TIMEOUT`] for each, 16 KiB of its answer.
//! 3. *Only what was verified is kept*: a cosignature by the witness's key, on the checkpoint that was sent. Checkpoint and
//!    cosignature are in the tree's folder as `witnessed`; the next request goes on from there.

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
use task_events::log_once::LogOnce;
use task_events::tls::{Tls, TlsFiles, TlsVariables};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

pub use self::exchange::WitnessUrl;
use self::exchange::{Answer, exchange};
use super::AuditError;
use super::tree::Commits;

/// Time between two requests: a checkpoint that nobody cosigned yet is that old at most.
const EVERY: Duration = Duration::from_secs(5);
/// Time for a request, from the name's resolution to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// In the tree's folder: the newest checkpoint that was cosigned, with the cosignature.
const WITNESSED: &str = "witnessed";

/// Which witness to ask.
#[derive(Debug, Clone)]
pub struct WitnessSettings {
    /// Where requests go, without `/add-checkpoint`.
    pub url: WitnessUrl,
    /// Whose cosignature counts.
    pub witness: Witness,
    /// For an https address.
    pub tls: Option<Tls>,
}

/// By which variable the certificates of a witness are configured, for messages.
const VARIABLES: TlsVariables = TlsVariables { ca: "AUDIT_WITNESS_CA_FILE", identity: None };

impl WitnessSettings {
    /// Reads the witness's key and, for an https address, the CAs. Blocks.
    pub fn load(url: WitnessUrl, key_file: &Path, ca: Option<PathBuf>) -> Result<Self, AuditError> {
        let failed = |why: String| AuditError::Witness { why };
        let named = |why: &dyn Display| failed(format!("{}: {why}", key_file.display()));
        let text = fs::read_to_string(key_file).map_err(|error| named(&error))?;
        let witness = Witness::from_vkey(&text)
            .ok_or_else(|| named(&"it is no key of a witness, as NAME+ID+KEY of cosignature/v1"))?;
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

impl Submission {
    /// The newest checkpoint of the tree in the folder. `None`: there is none, or it is cosigned already.
    fn next(folder: &Path) -> io::Result<Option<Self>> {
        let Some(note) = read_if_there(&folder.join("checkpoint"))? else { return Ok(None) };
        let checkpoint = Checkpoint::read(&note).map_err(io::Error::other)?;
        let before = read_if_there(&folder.join(WITNESSED))?.and_then(|note| Checkpoint::read(&note).ok());
        let before = before.filter(|before| before.origin == checkpoint.origin);
        let old = before.map_or(0, |before| before.size);
        if checkpoint.size <= old {
            return Ok(None);
        }
        Self::from(folder.to_owned(), note, checkpoint, old).map(Some)
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

/// Asks the witness again and again, until the process ends.
pub(super) async fn run(folder: PathBuf, settings: WitnessSettings, commits: Commits) {
    let mut log = LogOnce::new(module_path!());
    loop {
        sleep(EVERY).await;
        match ask(&folder, &settings).await {
            Ok(()) => {
                commits.witness_failed(None);
                log.over(&format!("witness {} has cosigned the tree again", settings.witness.name()));
            }
            Err(why) => {
                let text = format!(
                    "witness {} at {} has not cosigned the tree of the audit log: {why}; the log goes on",
                    settings.witness.name(),
                    settings.url
                );
                commits.witness_failed(Some(text.clone()));
                log.warn(&text);
            }
        }
    }
}

/// Has the newest checkpoint cosigned, if that is not done.
async fn ask(folder: &Path, settings: &WitnessSettings) -> Result<(), String> {
    let tree = folder.to_owned();
    let next = blocking(move || Submission::next(&tree)).await?;
    let Some(mut next) = next else { return Ok(()) };
    let mut answer = send(settings, &next.body).await?;
    // It has another size than was noted here: once more from there.
    if let Answer { status: 409, body } = &answer
        && let Ok(old) = body.trim().parse::<u64>()
        && old != next.old
    {
        if old > next.checkpoint.size {
            return Err(format!(
                "it has cosigned {old} lines of this tree, and the tree has {}: it was restored from an older copy",
                next.checkpoint.size
            ));
        }
        next = blocking(move || Submission::from(next.folder, next.note, next.checkpoint, old)).await?;
        answer = send(settings, &next.body).await?;
    }
    let why = match answer.status {
        200 => match settings.witness.find(&next.note, &answer.body) {
            Some((line, _)) => {
                let line = line.to_owned();
                return blocking(move || next.keep(&line)).await;
            }
            None => "its answer has no cosignature by its key".to_owned(),
        },
        403 => "it does not know the key of this log (403): give it the tree's vkey".to_owned(),
        404 => "it does not know this tree (404): give it the tree's vkey".to_owned(),
        409 => "it has another root of as many lines (409): log and tree were rewritten".to_owned(),
        422 => "what it has cosigned is not the beginning of this tree (422): log and tree were rewritten"
            .to_owned(),
        status => format!("it answered {status}"),
    };
    Err(why)
}

async fn send(settings: &WitnessSettings, body: &str) -> Result<Answer, String> {
    let asked = exchange(&settings.url, settings.tls.as_ref(), body.to_owned());
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
