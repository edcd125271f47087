//! An append-only file of JSON lines: the state behind it is a fold over the lines, the last one
//! of a key wins. It is rewritten without stale lines at start and when it has grown well beyond
//! what it holds. A torn last line, which a crash leaves, is skipped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;

/// The file is rewritten once it is this large and mostly stale.
const REWRITE_FROM_BYTES: u64 = 1 << 20;
const REWRITE_WHEN_LARGER: u64 = 8;

/// The open file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    size_when_rewritten: u64,
    dirty: bool,
}

/// The lines of the file, if there is one, in their order. Blocking.
pub(crate) fn read<L: DeserializeOwned>(path: &Path) -> io::Result<Vec<L>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut lines = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(line) => lines.push(line),
            Err(error) => log::warn!("{}: skipped a torn line: {error}", path.display()),
        }
    }
    Ok(lines)
}

impl Journal {
    /// A file that holds exactly these lines, in place of what was there. Blocking.
    pub fn rewrite<L: Serialize>(path: &Path, lines: impl Iterator<Item = L>) -> io::Result<Self> {
        let text = encode(lines)?;
        durable::replace(path, &text)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let size = text.len() as u64;
        Ok(Self { path: path.to_owned(), file, size, size_when_rewritten: size, dirty: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends lines, which then survive a kill of the process. Blocking.
    pub fn append<L: Serialize>(&mut self, lines: impl Iterator<Item = L>) -> io::Result<()> {
        let text = encode(lines)?;
        if let Err(error) = self.file.write_all(&text) {
            // A torn line in the middle would swallow the next one.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += text.len() as u64;
        self.dirty = true;
        Ok(())
    }

    /// Whether it is worth to be rewritten.
    pub fn is_stale(&self) -> bool {
        let stale = self.size_when_rewritten.saturating_mul(REWRITE_WHEN_LARGER);
        self.size > REWRITE_FROM_BYTES.max(stale)
    }

    /// Makes what was appended survive a power cut. Blocking.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }
}

fn encode<L: Serialize>(lines: impl Iterator<Item = L>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}
