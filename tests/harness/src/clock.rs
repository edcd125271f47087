//! A wall clock that can be stepped, for some processes alone.

use crate::{Error, Program, Result, temporary_folder};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The wall clock of the programs that are started with it. Their monotonic clock is the machine's.
///
/// It is libfaketime, which is between a program and the C library: so it works with the dynamically
/// linked builds of development, and not with the static ones.
pub struct SteppedClock {
    library: PathBuf,
    folder: TempDir,
}

impl SteppedClock {
    /// A clock that is right so far. `None`, written to standard error, where there is no libfaketime.
    pub fn find() -> Result<Option<Self>> {
        let Some(library) = library() else {
            eprintln!("there is no libfaketime (Debian's package libfaketime), so clocks are not stepped");
            return Ok(None);
        };
        let clock = Self { library, folder: temporary_folder()? };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// The program with this clock.
    pub fn on(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", self.library.display())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().display())
            .env("FAKETIME_NO_CACHE", 1)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
    }

    /// Steps it: it is so many seconds fast, or slow, from now on.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // In one piece: it is read at any moment.
        let fresh = self.folder.path().join("fresh");
        let written =
            fs::write(&fresh, format!("{seconds:+}\n")).and_then(|()| fs::rename(&fresh, self.file()));
        written.map_err(|error| Error::file(&fresh, error))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

/// Where packages put it: below a folder of the machine's kind, or not.
fn library() -> Option<PathBuf> {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let below = |folder: &str| {
        let folders = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found = folders.map(|folder| folder.join(NAME)).filter(|path| path.is_file());
        found.next().or_else(|| Some(Path::new(folder).join(NAME)).filter(|path| path.is_file()))
    };
    ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter().find_map(below)
}
