//! The tree in its folder: full tiles as they fill up, and from time to time the rest, with a checkpoint.
//!
//! `state.json` says how far the tree was durable: every tile that it needs was synced before it was written. A start
//! continues from there, and reads the lines behind it once more. The checkpoint may be newer; what is read has to lead
//! to its root.
//!
//! A power cut leaves what `state.json` relies on as it was synced: tiles are never written again under a name that has
//! its content, and the checkpoint, which is, is replaced durably.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use audit_tree::{Checkpoint, Hash, Rows, Signer, Tile, Tiles, leaf_hash};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use task_events::disk::{self, FileSystem, replace};
use uuid::Uuid;

use super::super::segments::with_suffix;
use super::anchors::Anchor;

/// The tree is made durable after so many lines, or so much time, whichever is first. A start reads what is not durable
/// again from the log: a million lines in a second.
const SYNC_LINES: u64 = 2_000_000;
const SYNC_EVERY: Duration = Duration::from_secs(10);
/// Files that are synced one by one. More of them would have the disk to themselves, and the log would wait for each.
const FEW_FILES: usize = 32;
/// The names of the files beside the tiles.
const STATE: &str = "state.json";
const CHECKPOINT: &str = "checkpoint";

/// What `state.json` has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    origin: String,
    size: u64,
    /// Where the last line starts in its file.
    line_start: u64,
    /// The file with the last line was sealed, and may be elsewhere by now.
    sealed: bool,
    /// With which entry each file of the log begins.
    files: Vec<u64>,
}

/// Where a tree ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Of the last line; none of an empty tree.
    pub(super) leaf: Option<Hash>,
    /// The byte where that line starts in its file.
    pub(super) start: u64,
    /// That file was sealed.
    pub(super) sealed: bool,
}

/// What is in the folder of a tree.
pub(super) enum Found {
    Nothing,
    /// No tree that can go on, and why.
    Unusable(&'static str),
    Tree(Box<Growing>),
}

/// A tree that lines are added to.
#[derive(Debug)]
pub(super) struct Growing {
    folder: PathBuf,
    signer: Signer,
    state: State,
    rows: Rows,
    last: Option<Hash>,
    /// The checkpoint that was there at the start, until the tree has its size.
    claimed: Option<Checkpoint>,
    /// Lines that the checkpoint had when the tree was opened.
    signed: u64,
    published: u64,
    /// It has lines that may not be signed: `state.json` stays behind them.
    is_held: bool,
    synced: (u64, Instant),
    /// What was written and not synced, and the partial tiles of the last checkpoint and of the last sync.
    unsynced: BTreeSet<PathBuf>,
    partials: BTreeSet<PathBuf>,
    synced_partials: BTreeSet<PathBuf>,
    filled: Vec<PathBuf>,
    /// It began in this process: nobody else has signed anything of it.
    is_new: bool,
}

impl Growing {
    /// Begins a tree in a folder that is not there yet.
    pub(super) fn create(folder: &Path, signer: &Signer) -> io::Result<Self> {
        fs::create_dir(folder)?;
        Self::begin(folder, signer).inspect_err(|_| {
            // It has no entry yet, and would be set aside at each further try.
            let _ = fs::remove_dir_all(folder);
        })
    }

    fn begin(folder: &Path, signer: &Signer) -> io::Result<Self> {
        let origin = format!("task-events/audit/{}", Uuid::new_v4());
        let vkey = format!("{}\n", signer.verifier().vkey(&origin));
        replace(&FileSystem, &folder.join("vkey"), &folder.join("vkey.new"), vkey.as_bytes())?;
        let mut tree = Self::at(folder, signer, State { origin, ..State::default() }, Rows::default());
        tree.is_new = true;
        tree.write_checkpoint()?;
        tree.write_state()?;
        File::open(
            folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?
        .sync_all()?;
        Ok(tree)
    }

    fn at(folder: &Path, signer: &Signer, state: State, rows: Rows) -> Self {
        let size = rows.size();
        let (unsynced, partials, synced_partials, filled) = Default::default();
        Self {
            folder: folder.to_owned(),
            signer: signer.clone(),
            state,
            rows,
            last: None,
            claimed: None,
            signed: 0,
            published: size,
            is_held: false,
            synced: (size, Instant::now()),
            unsynced,
            partials,
            synced_partials,
            filled,
            is_new: false,
        }
    }

    /// Opens the tree in the folder as it was last synced.
    pub(super) fn open(folder: &Path, signer: &Signer) -> io::Result<Found> {
        if !fs::exists(folder)? {
            return Ok(Found::Nothing);
        }
        let Some(state) = read_if_there(&folder.join(STATE))? else {
            return Ok(Found::Unusable("its state.json is missing"));
        };
        let Ok(state) = serde_json::from_slice::<State>(&state) else {
            return Ok(Found::Unusable("its state.json cannot be read"));
        };
        let Some(note) = read_if_there(&folder.join(CHECKPOINT))? else {
            return Ok(Found::Unusable("its checkpoint is missing"));
        };
        let claimed = match Checkpoint::open(&String::from_utf8_lossy(&note), &signer.verifier()) {
            Ok(claimed) if claimed.origin == state.origin => claimed,
            _ => {
                return Ok(Found::Unusable(
                    "its checkpoint is not by this key: the key is another, or it was forged",
                ));
            }
        };
        let mut tiles = Tiles::new(folder, state.size);
        let rows = match tiles.rows() {
            Ok(rows) => rows,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Other) => {
                return Ok(Found::Unusable("its last tiles are missing or damaged"));
            }
            Err(error) => return Err(error),
        };
        let last = state.size.checked_sub(1).map(|last| tiles.leaf(last)).transpose()?;
        if claimed.size <= state.size && tiles.root_at(claimed.size)? != claimed.root {
            return Ok(Found::Unusable("its tiles do not lead to the root of its checkpoint"));
        }
        // The last state may be of lines that were not signed yet.
        let (published, signed) = (claimed.size.min(state.size), claimed.size);
        let claimed = Some(claimed).filter(|claimed| claimed.size > state.size);
        let paths = Tile::partials(state.size).map(|tile| tile.path(folder));
        let synced_partials = paths.filter(|path| path.exists()).collect();
        let tree = Self::at(folder, signer, state, rows);
        Ok(Found::Tree(Box::new(Self { last, claimed, signed, published, synced_partials, ..tree })))
    }

    pub(super) fn origin(&self) -> &str {
        &self.state.origin
    }

    /// Whether it began in this process.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    pub(super) fn size(&self) -> u64 {
        self.rows.size()
    }

    /// Lines that were signed before it was opened.
    pub(super) fn signed(&self) -> u64 {
        self.signed
    }

    /// It has lines now that may not be signed yet.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    pub(super) fn end(&self) -> End {
        End { leaf: self.last, start: self.state.line_start, sealed: self.state.sealed }
    }

    /// Origin, size and root.
    pub(super) fn anchor(&self) -> (String, Anchor) {
        (self.state.origin.clone(), Anchor { size: self.size(), root: hex(&self.rows.root()) })
    }

    /// Whether the checkpoint that was there at the start has been reached, and is of these lines.
    pub(super) fn fits_checkpoint(&self) -> bool {
        self.claimed.is_none()
    }

    /// Adds whole lines, of which the last ends at that byte of its file.
    pub(super) fn add(&mut self, lines: &[u8], end: u64) -> io::Result<()> {
        let mut at = end.saturating_sub(lines.len() as u64);
        let mut begun = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            let Some(line) = lines.get(begun..=end) else { return Ok(()) };
            let Some(leaf) = leaf_of(line) else { return Ok(()) };
            begun = end + 1;
            if at == 0 {
                self.state.files.push(self.size());
            }
            (self.state.line_start, self.state.sealed, self.last) = (at, false, Some(leaf));
            at += line.len() as u64;
            let Self { rows, folder, unsynced, filled, .. } = self;
            let mut written = Ok(());
            rows.push(leaf, &mut |tile, hashes| {
                let path = tile.path(folder);
                let done = write(&path, &hashes.concat());
                if written.is_ok() {
                    written = done;
                }
                let mut partial = path.clone().into_os_string();
                partial.push(".p");
                filled.push(PathBuf::from(partial));
                unsynced.insert(path);
            });
            written?;
            if self
                .claimed
                .as_ref()
                .is_some_and(|claimed| claimed.size == self.size() && claimed.root == self.rows.root())
            {
                self.claimed = None;
            }
        }
        Ok(())
    }

    /// The file with the last line is sealed.
    pub(super) fn seal(&mut self, sign: bool) -> io::Result<()> {
        self.state.sealed = true;
        self.publish(sign)?;
        self.sync()?;
        if self.is_held { Ok(()) } else { self.write_state() }
    }

    /// Writes what a reader needs of the tree as it is now, and its checkpoint where it may be signed.
    pub(super) fn publish(&mut self, sign: bool) -> io::Result<()> {
        let size = self.size();
        self.is_held &= !sign;
        if size != self.published && !self.is_held {
            self.write_partials()?;
        }
        if size != self.published && sign && self.fits_checkpoint() {
            let partials: BTreeSet<PathBuf> =
                self.rows.partials().map(|(tile, _)| tile.path(&self.folder)).collect();
            self.write_checkpoint()?;
            for old in self.partials.difference(&partials).filter(|old| !self.synced_partials.contains(*old))
            {
                // What stays is in nobody's way.
                let _ = fs::remove_file(old);
                self.unsynced.remove(old);
            }
            (self.partials, self.published) = (partials, size);
        }
        self.sync_if_due()
    }

    /// Makes durable what there is, where that is many lines or long ago.
    pub(super) fn sync_if_due(&mut self) -> io::Result<()> {
        let (size, (synced, at)) = (self.size(), self.synced);
        if size > synced && (size - synced >= SYNC_LINES || at.elapsed() >= SYNC_EVERY) {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes durable what is published.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.synced.0 == self.size() || self.is_held {
            return Ok(());
        }
        self.write_partials()?;
        if self.unsynced.len() <= FEW_FILES || !disk::sync_all_beside(&self.folder)? {
            self.sync_files()?;
        }
        self.unsynced.clear();
        self.write_state()?;
        for old in self.synced_partials.difference(&self.partials) {
            let _ = fs::remove_file(old);
        }
        for old in self.filled.drain(..) {
            let _ = fs::remove_dir_all(old);
        }
        self.synced_partials = self.partials.clone();
        self.synced = (self.size(), Instant::now());
        Ok(())
    }

    fn sync_files(&self) -> io::Result<()> {
        let mut folders = BTreeSet::new();
        for path in &self.unsynced {
            File::open(path)?.sync_all()?;
            let above = path.ancestors().skip(1).take_while(|above| above.starts_with(&self.folder));
            folders.extend(above.map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| File::open(folder)?.sync_all())
    }

    /// Writes the tiles that are not full and not there. Those of the last checkpoint stay.
    fn write_partials(&mut self) -> io::Result<()> {
        for (tile, hashes) in self.rows.partials() {
            let path = tile.path(&self.folder);
            if !self.partials.contains(&path) && !self.synced_partials.contains(&path) {
                write(&path, &hashes.concat())?;
                self.unsynced.insert(path.clone());
            }
            self.partials.insert(path);
        }
        Ok(())
    }

    /// The root that the tree had at that size, in hexadecimal. Nothing is signed for it.
    pub(super) fn root_at(&mut self, size: u64) -> io::Result<String> {
        self.write_partials()?;
        Ok(hex(&Tiles::new(&self.folder, self.size()).root_at(size)?))
    }

    fn write_checkpoint(&self) -> io::Result<()> {
        let (origin, size, root) = (self.state.origin.clone(), self.size(), self.rows.root());
        let note = Checkpoint { origin, size, root }.sign(&self.signer);
        let (path, new) = (self.folder.join(CHECKPOINT), self.folder.join("checkpoint.new"));
        replace(&FileSystem, &path, &new, note.as_bytes())
    }

    fn write_state(&mut self) -> io::Result<()> {
        self.state.size = self.size();
        let bytes = serde_json::to_vec(&self.state)?;
        replace(&FileSystem, &self.folder.join(STATE), &self.folder.join("state.new"), &bytes)
    }
}

/// Moves the folder of a tree out of the way. Returns where it is then.
pub(super) fn set_aside(folder: &Path) -> io::Result<PathBuf> {
    let aside = with_suffix(folder, &Utc::now().format("%Y%m%dT%H%M%S%.6fZ").to_string());
    fs::rename(folder, &aside)?;
    Ok(aside)
}

/// The leaf of a line, its end included. `None`: it has no end.
pub(super) fn leaf_of(line: &[u8]) -> Option<Hash> {
    line.strip_suffix(b"\n").map(leaf_hash)
}

/// Gives a file its content at once for whoever reads it meanwhile. It is durable after a sync.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = fs::write(&new, bytes).or_else(|error| match (error.kind(), path.parent()) {
        (io::ErrorKind::NotFound, Some(folder)) => {
            fs::create_dir_all(folder).and_then(|()| fs::write(&new, bytes))
        }
        _ => Err(error),
    });
    written.and_then(|()| fs::rename(&new, path))
}

/// The content of a file. `None`: it is not there.
fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
