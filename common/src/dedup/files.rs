//! The names of the store's files: that of the manifest, and the same with a kind and a number behind it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A file of a store beside its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Run(u64),
    Log(u64),
    NewManifest,
}

pub(super) fn run(path: &Path, number: u64) -> PathBuf {
    with_suffix(path, &format!("run-{number}"))
}

pub(super) fn log(path: &Path, number: u64) -> PathBuf {
    with_suffix(path, &format!("log-{number}"))
}

/// The manifest before it has its name.
pub(super) fn new_manifest(path: &Path) -> PathBuf {
    with_suffix(path, "new")
}

/// What a name in the folder is to the store of that path.
pub(super) fn kind(path: &Path, name: &Path) -> Option<Kind> {
    let (store, name) = (path.file_name()?.to_str()?, name.file_name()?.to_str()?);
    let suffix = name.strip_prefix(store)?.strip_prefix('.')?;
    match suffix.split_once('-') {
        Some(("run", number)) => number.parse().ok().map(Kind::Run),
        Some(("log", number)) => number.parse().ok().map(Kind::Log),
        _ => (suffix == "new").then_some(Kind::NewManifest),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}
