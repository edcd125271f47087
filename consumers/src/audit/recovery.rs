//! Brings log and index together at the start: what the index lacks is read from the log, and what a crash
//! left behind the last whole line is cut off and kept aside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use task_events::dedup::{Dedup, DedupError, Retention};
use task_events::disk::Disk;
use uuid::Uuid;

use super::AuditError;
use super::extent::Extent;
use super::line::{self, MAX_LINE};
use super::log::{Lines, MAX_UNSYNCED, Section, Storage};

/// Ids that are added to the index at once.
const CHUNK: usize = 4_096;

/// What an index says of a log.
enum Index {
    /// It holds the ids of the log up to there.
    Covers(Extent),
    /// It holds nothing.
    Empty,
    /// It holds something else.
    Misfit {
        why: String,
        /// Below this the log was whole and synced once.
        sound: u64,
    },
}

/// Opens the index and brings it level with the log of that length. Returns what is known of the log, its
/// torn tail cut off.
pub(super) fn recover<S: Storage>(
    disk: &Arc<dyn Disk>,
    storage: &S,
    length: u64,
    path: &Path,
    index_path: &Path,
) -> Result<(Dedup, Extent), AuditError> {
    let io = |source| AuditError::Recover { path: path.to_owned(), source };
    if length == 0 {
        // Its name has to be on disk before its first line is; it may also be left over from a crash
        // between the two.
        disk.sync_folder(path).map_err(io)?;
    }
    let (mut index, mut says) = open_index(disk, storage, length, index_path).map_err(io)??;
    let mut sound = 0;
    let start = match &mut says {
        Index::Covers(extent) => {
            sound = extent.length;
            std::mem::take(extent)
        }
        Index::Empty => {
            if length > 0 {
                log::warn!("{} has no index: reading the whole log", path.display());
            }
            Extent::default()
        }
        Index::Misfit { why, sound: claimed } => {
            log::warn!(
                "the index {} does not fit {} ({why}): making it anew from the whole log",
                index_path.display(),
                path.display()
            );
            sound = *claimed;
            drop(index);
            disk.remove(index_path).map_err(io)?;
            index = open_dedup(disk, index_path)?;
            Extent::default()
        }
    };
    let covered = start.length;

    let scan = scan(storage, start, length, &index, |_| {});
    let Scan { mut extent, invalid } = scan.map_err(|error| error.at_start(path))?;
    if let Some(invalid) = invalid {
        let damaged =
            invalid.at < sound || invalid.last_valid.is_some_and(|at| at >= invalid.at + MAX_UNSYNCED);
        if damaged {
            return Err(AuditError::Damaged { path: path.to_owned(), at: invalid.at });
        }
        cut(&**disk, storage, path, invalid.at, length)?;
    }
    if extent.length > covered {
        settle(storage, covered, extent.length).map_err(io)?;
        correct_count(&index, &mut extent, path)?;
        // The next start has nothing of this to do again.
        index.checkpoint()?;
    }
    Ok((index, extent))
}

/// Opens the index. One that cannot be read is moved aside: the log has all that it held.
fn open_index<S: Storage>(
    disk: &Arc<dyn Disk>,
    storage: &S,
    length: u64,
    path: &Path,
) -> io::Result<Result<(Dedup, Index), AuditError>> {
    let opened = open_dedup(disk, path).and_then(|index| {
        let says = what_index_says(&index, storage, length)?;
        Ok((index, says))
    });
    let error = match opened {
        Ok((index, says)) => return Ok(Ok((index, says?))),
        Err(error) if disk.exists(path).is_ok_and(|there| !there) => return Ok(Err(error.into())),
        Err(error) => error,
    };
    let aside = path.with_extension("unreadable");
    disk.rename(path, &aside)?;
    match open_dedup(disk, path) {
        Ok(index) => {
            let why = format!("{error}; moved to {}", aside.display());
            Ok(Ok((index, Index::Misfit { why, sound: 0 })))
        }
        // It is not the file: a full disk, say. Back to what was.
        Err(second) => {
            let _ = disk.remove(path);
            disk.rename(&aside, path)?;
            Ok(Err(second.into()))
        }
    }
}

fn open_dedup(disk: &Arc<dyn Disk>, path: &Path) -> Result<Dedup, DedupError> {
    Dedup::open_on(Arc::clone(disk), path, Retention::ForeverRebuildable)
}

/// Compares index and log: the line that the mark names has to stand where it says.
fn what_index_says<S: Storage>(
    index: &Dedup,
    storage: &S,
    length: u64,
) -> Result<io::Result<Index>, DedupError> {
    let (mark, ids) = (index.mark()?, index.len()?);
    let Some(mark) = mark else {
        let why = || format!("it holds {ids} ids and no mark");
        return Ok(Ok(if ids == 0 { Index::Empty } else { Index::Misfit { why: why(), sound: 0 } }));
    };
    let misfit = |why: String, sound| Ok(Ok(Index::Misfit { why, sound }));
    let Some(extent) = Extent::from_mark(&mark) else {
        return misfit("its mark cannot be read".to_owned(), 0);
    };
    if extent.length > length {
        let why = format!("the log has {length} bytes, the index covers {}", extent.length);
        return misfit(why, 0);
    }
    match names_last_line(storage, &extent) {
        Err(error) => Ok(Err(error)),
        Ok(false) => {
            let why = format!("the line at byte {} is another one", extent.last_line);
            misfit(why, extent.length)
        }
        Ok(true) if ids != extent.ids => {
            misfit(format!("it holds {ids} ids, not {}", extent.ids), extent.length)
        }
        Ok(true) => Ok(Ok(Index::Covers(extent))),
    }
}

/// Whether the line that ends where the extent ends is the one that it names.
pub(super) fn names_last_line<S: Storage>(storage: &S, extent: &Extent) -> io::Result<bool> {
    if extent.length - extent.last_line > MAX_LINE as u64 {
        return Ok(false);
    }
    let mut lines = Lines::new(storage, extent.last_line, extent.length);
    let Some((_, bytes)) = lines.next()? else { return Ok(false) };
    let names = line::parse(bytes).is_some_and(|line| extent.ends_with(&line));
    // And nothing else up to there.
    Ok(names && lines.next()?.is_none())
}

/// How far a scan came.
pub(super) struct Scan {
    /// The log up to the first invalid line.
    pub(super) extent: Extent,
    pub(super) invalid: Option<Invalid>,
}

/// Bytes that are not a whole line.
pub(super) struct Invalid {
    /// Where they start.
    pub(super) at: u64,
    /// Where the last valid line after them starts.
    last_valid: Option<u64>,
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error(transparent)]
    Log(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] DedupError),
    #[error(transparent)]
    Mark(#[from] serde_json::Error),
}

impl ScanError {
    fn at_start(self, path: &Path) -> AuditError {
        match self {
            Self::Log(source) => AuditError::Recover { path: path.to_owned(), source },
            Self::Index(error) => AuditError::Index(error),
            Self::Mark(error) => AuditError::Recover { path: path.to_owned(), source: error.into() },
        }
    }
}

/// Adds the ids of the log from `start` to `end` to the index, in chunks, each with its mark.
pub(super) fn scan<S: Storage>(
    storage: &S,
    start: Extent,
    end: u64,
    index: &Dedup,
    mut on_line: impl FnMut(Uuid),
) -> Result<Scan, ScanError> {
    let mut lines = Lines::new(storage, start.length, end);
    let mut extent = start;
    let mut invalid: Option<Invalid> = None;
    let mut ids = Vec::with_capacity(CHUNK);
    while let Some((at, bytes)) = lines.next()? {
        match (line::parse(bytes), &mut invalid) {
            (Some(line), None) => {
                extent.add(line.event_id, &line.kafka, bytes.len());
                ids.push(line.event_id);
                on_line(line.event_id);
            }
            (Some(_), Some(invalid)) => invalid.last_valid = Some(at),
            (None, None) => invalid = Some(Invalid { at, last_valid: None }),
            (None, Some(_)) => {}
        }
        if ids.len() == CHUNK {
            record(index, &ids, &extent)?;
            ids.clear();
        }
    }
    if !ids.is_empty() {
        record(index, &ids, &extent)?;
    }
    Ok(Scan { extent, invalid })
}

fn record(index: &Dedup, ids: &[Uuid], extent: &Extent) -> Result<(), ScanError> {
    if let Some(mark) = extent.to_mark()? {
        index.record_blocking(ids, &mark)?;
    }
    Ok(())
}

/// A log that this service wrote holds each id once. Where another hand did, the index holds fewer ids
/// than there are lines, and the mark has to say so: the count is what shows an index to be whole.
fn correct_count(index: &Dedup, extent: &mut Extent, path: &Path) -> Result<(), AuditError> {
    let ids = index.len()?;
    if ids == extent.ids {
        return Ok(());
    }
    log::warn!("{} holds {} ids more than once", path.display(), extent.ids.saturating_sub(ids));
    extent.ids = ids;
    record(index, &[], extent).map_err(|error| error.at_start(path))
}

/// Makes sure that what was found is on disk: a process may have died between write and sync, and its
/// lines stand only in memory. Written again as well, since a sync that failed before may have marked them
/// clean.
fn settle<S: Storage>(storage: &S, covered: u64, length: u64) -> io::Result<()> {
    let start = covered.max(length.saturating_sub(MAX_UNSYNCED));
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut Section::new(storage, start, length), &mut bytes)?;
    storage.write_all_at(&bytes, start)?;
    storage.sync_data()
}

/// Cuts off what follows `at`, and keeps it in a file of its own.
fn cut<S: Storage>(
    disk: &dyn Disk,
    storage: &S,
    path: &Path,
    at: u64,
    length: u64,
) -> Result<(), AuditError> {
    let mut name = path.as_os_str().to_owned();
    name.push(Utc::now().format(".torn-%Y%m%dT%H%M%S%.6fZ").to_string());
    let aside = PathBuf::from(name);
    let kept = disk
        .write_new(&aside, &mut Section::new(storage, at, length))
        .and_then(|()| disk.sync_folder(&aside));
    kept.map_err(|source| {
        // Half a copy is worth nothing, and the next start makes another.
        let _ = disk.remove(&aside);
        AuditError::KeepAside { path: path.to_owned(), aside: aside.clone(), source }
    })?;
    let io = |source| AuditError::Recover { path: path.to_owned(), source };
    storage.set_len(at).map_err(io)?;
    storage.sync_data().map_err(io)?;
    log::warn!(
        "{} ended in a torn line: cut off {} bytes at byte {at}, kept in {}",
        path.display(),
        length - at,
        aside.display()
    );
    Ok(())
}
