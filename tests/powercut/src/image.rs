//! What is on a disk, and the operations that change it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

/// Pages are shared between the many images of one recording.
const PAGE: u64 = 4096;

/// A file's content; pages that were never written are zeros.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
    pub(crate) len: u64,
}

impl Content {
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) {
        each_page(at, out.len(), |page, within, range| match self.pages.get(&page) {
            Some(bytes) => out[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            None => out[range].fill(0),
        });
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        each_page(at, bytes.len(), |page, within, range| {
            let target = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(target)[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            drop(self.pages.split_off(&len.div_ceil(PAGE)));
            let rest = usize::try_from(len.next_multiple_of(PAGE) - len).unwrap();
            if self.pages.contains_key(&(len / PAGE)) {
                self.write(len, &vec![0; rest]);
            }
        }
        self.len = len;
    }
}

impl Content {
    fn difference(&self, base: &Self, hasher: &mut impl Hasher) {
        self.len.hash(hasher);
        for (number, page) in &self.pages {
            let same = base.pages.get(number).is_some_and(|other| Arc::ptr_eq(page, other) || page == other);
            if !same {
                (number, page).hash(hasher);
            }
        }
    }
}

/// Calls `work` with (page, place within the page, range of the bytes) for each page that is touched.
fn each_page(at: u64, len: usize, mut work: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let position = at + done as u64;
        let within = (position % PAGE) as usize;
        let count = (PAGE as usize - within).min(len - done);
        work(position / PAGE, within, done..done + count);
        done += count;
    }
}

/// Files, and the names by which they are found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) files: Vec<Content>,
    pub(crate) names: BTreeMap<PathBuf, usize>,
}

impl Image {
    /// A fingerprint of what is other than in `base`, as far as it can be found: a file without a name is
    /// nothing.
    pub(crate) fn difference(&self, base: &Self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, file) in &self.names {
            (name, file).hash(&mut hasher);
            self.files[*file].difference(&base.files[*file], &mut hasher);
        }
        hasher.finish()
    }
}

/// A change that a program made.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write { file: usize, at: u64, bytes: Arc<[u8]> },
    SetLen { file: usize, len: u64 },
    Sync { file: usize },
    Link { path: PathBuf, file: usize },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    SyncFolder { folder: PathBuf },
}

impl Op {
    /// The file whose content it changes.
    pub(crate) fn file(&self) -> Option<usize> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// Whether `sync` makes it durable.
    pub(crate) fn is_covered_by(&self, sync: &Self) -> bool {
        match (sync, self) {
            (Self::Sync { file }, _) => self.file() == Some(*file),
            (
                Self::SyncFolder { folder },
                Self::Link { path, .. } | Self::Unlink { path } | Self::Rename { from: path, .. },
            ) => path.parent() == Some(folder),
            _ => false,
        }
    }

    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::SyncFolder { .. })
    }

    pub(crate) fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { file, at, bytes } => image.files[*file].write(*at, bytes),
            Self::SetLen { file, len } => image.files[*file].set_len(*len),
            Self::Link { path, file } => drop(image.names.insert(path.clone(), *file)),
            Self::Unlink { path } => drop(image.names.remove(path)),
            Self::Rename { from, to } => {
                // Where it was lost that the file got its first name, there is nothing to rename.
                if let Some(file) = image.names.remove(from) {
                    image.names.insert(to.clone(), file);
                }
            }
            Self::Sync { .. } | Self::SyncFolder { .. } => {}
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { file, at, bytes } => {
                write!(f, "write of {} bytes at {at} to file {file}", bytes.len())
            }
            Self::SetLen { file, len } => write!(f, "length {len} of file {file}"),
            Self::Sync { file } => write!(f, "sync of file {file}"),
            Self::Link { path, file } => write!(f, "name {} of file {file}", path.display()),
            Self::Unlink { path } => write!(f, "removal of {}", path.display()),
            Self::Rename { from, to } => write!(f, "renaming {} to {}", from.display(), to.display()),
            Self::SyncFolder { folder } => write!(f, "sync of folder {}", folder.display()),
        }
    }
}

/// Applies those of the pending operations that `sync` makes durable, and leaves the others.
pub(crate) fn settle(pending: &mut Vec<Op>, sync: &Op, durable: &mut Image) {
    pending.retain(|op| {
        let covered = op.is_covered_by(sync);
        if covered {
            op.apply(durable);
        }
        !covered
    });
}
