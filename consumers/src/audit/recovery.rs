//! Brings log and index together, at the start and whenever another hand changed the log: what the index
//! lacks is read from the log, ids whose lines are gone are forgotten, and what a crash left behind the last
//! whole line is cut off and kept aside.
//!
//! | the index | the file under the log's name | then |
//! | --- | --- | --- |
//! | names a line of the file | has it | the lines behind it are added to the index |
//! | names a line of the file | has it not; a segment has it, and the file is none of its lines | it was rotated: the segment is sealed, the file is new |
//! | names no line of the file, being older than it, or made before a rotation | whatever it has; segments begin with lines that the index has not | it was rotated since: these segments are sealed, the file is new |
//! | names a line of the file | has it not | lines are gone: see [`gone`] |
//! | is missing, unreadable, or of another version | whatever it has | the index is made from the segments beside the log and from the log |
//!
//! Of segments, those that the index lacks are read, and damage in them is refused as it is in the log.

use std::io;
use std::path::{Path, PathBuf};

use chrono::Utc;
use task_events::dedup::{Dedup, Retention};

use super::current::{Current, add_whole_segment, line_number};
use super::file::{Files, Lines, MAX_UNSYNCED, Section, Storage};
use super::gone;
use super::line::{self, MAX_LINE};
use super::mark::Mark;
use super::scan::{Scan, ScanError, Tail, scan};
use super::segments::{self, Segment};
use super::{AuditError, Damage};

/// Opens the index. One that cannot be read is moved aside: the log has all that it held.
pub(super) fn open_index<F: Files>(files: &F, log: &Path, path: &Path) -> Result<Dedup, AuditError> {
    let disk = files.disk();
    let open = || Dedup::open_on(files.disk(), path, Retention::ForeverRebuildable);
    // Opened, and seen to answer.
    let error = match open().and_then(|index| index.mark().map(|_| index)) {
        Ok(index) => return Ok(index),
        Err(error) if disk.exists(path).is_ok_and(|there| !there) => return Err(error.into()),
        Err(error) => error,
    };
    let io = |source| AuditError::Recover { path: log.to_owned(), source };
    let aside = path.with_extension("unreadable");
    disk.rename(path, &aside).map_err(io)?;
    match open() {
        Ok(index) => {
            ::log::warn!("{error}; moved to {}", aside.display());
            Ok(index)
        }
        // It is not the file: a full disk, say. Back to what was.
        Err(second) => {
            // A name that is not there need not be removed.
            let _ = disk.remove(path);
            disk.rename(&aside, path).map_err(io)?;
            Err(second.into())
        }
    }
}

/// What a recovery found.
pub(super) struct Recovered {
    /// What is known of the log.
    pub(super) mark: Mark,
    /// What is missing of it.
    pub(super) missing: Option<String>,
    /// The bytes of the file that an index which was there did not name.
    pub(super) found: (u64, u64),
}

/// Brings the index level with the log.
pub(super) fn recover<F: Files>(current: &Current<'_, F>, index: &Dedup) -> Result<Recovered, AuditError> {
    let io = |source| AuditError::Recover { path: current.path.to_owned(), source };
    if current.length == 0 {
        // Its name has to be on disk before its first line is; it may also be left over from a crash
        // between the two.
        current.files.disk().sync_folder(current.real).map_err(io)?;
    }
    let (mark, ids) = (index.mark()?, index.len()?);
    let read = mark.as_deref().and_then(Mark::from_bytes).filter(|mark| mark.ids == ids);
    let is_known = read.is_some();
    let (start, tail, missing) = match read {
        Some(mark) if holds(current.file, current.length, &mark).map_err(io)? => {
            let tail = tail_of(&mark);
            (seal_later(current, index, mark).map_err(|error| error.at_start(current.path))?, tail, None)
        }
        Some(mark) => match follow(current, index, &mark).map_err(|error| error.at_start(current.path))? {
            Some(sealed) => {
                let sealed =
                    seal_later(current, index, sealed).map_err(|error| error.at_start(current.path))?;
                (sealed, Tail::Unsynced, None)
            }
            None => {
                let (start, missing) =
                    gone::forget(current, index, &mark).map_err(|error| error.at_start(current.path))?;
                // Of a file that was not cut, all that the index named was synced.
                let was_cut = current.length < mark.length;
                (start, if was_cut { Tail::Foreign } else { Tail::SyncedTo(mark.length) }, Some(missing))
            }
        },
        None => {
            let why = match mark {
                None if ids == 0 => None,
                _ => Some("it is not one of this log and this version"),
            };
            let made = rebuild(current, index, why).map_err(|error| error.at_start(current.path))?;
            (made, if current.length == 0 { Tail::Unsynced } else { Tail::Foreign }, None)
        }
    };
    let from = start.length;
    let mark = read_on(current, index, start, tail)?;
    let found = (from, if is_known { mark.length } else { from });
    Ok(Recovered { mark, missing, found })
}

/// What is known of lines that the index does not name.
fn tail_of(mark: &Mark) -> Tail {
    if mark.refused { Tail::Foreign } else { Tail::Unsynced }
}

/// Makes the index from the segments, of which each has to be whole. Returns what is known before the first line of the file.
fn rebuild<F: Files>(current: &Current<'_, F>, index: &Dedup, why: Option<&str>) -> Result<Mark, ScanError> {
    let segments = segments::beside(current.files, current.real)?;
    if let Some(why) = why {
        ::log::warn!(
            "the index does not fit {} ({why}): making it from the whole log",
            current.path.display()
        );
    } else if current.length > 0 || !segments.is_empty() {
        ::log::warn!("{} has no index: reading the whole log", current.path.display());
    }
    let mut mark = Mark::default();
    index.truncate(0, &[])?;
    if segments.is_empty() {
        if current.length == 0 {
            // A log that starts with its index: whatever is in it later and not in the index is new.
            index.append(&[], true, |ids| mark.to_bytes(ids))?;
        }
        return Ok(mark);
    }
    for path in &segments {
        add_whole_segment(current, index, &mut mark, path, Tail::Foreign)?;
        mark = mark.sealed();
    }
    ::log::warn!(
        "read {} events from {} sealed segments beside {}; events of segments that were moved away are not known any more",
        mark.ids,
        segments.len(),
        current.path.display()
    );
    index.append(&[], true, |ids| mark.to_bytes(ids))?;
    Ok(mark)
}

/// Where the log was rotated while the service was stopped: the segment that ends, or goes on, with the line
/// that the mark names is sealed.
fn follow<F: Files>(current: &Current<'_, F>, index: &Dedup, mark: &Mark) -> Result<Option<Mark>, ScanError> {
    if !gone::is_new(current, index)? {
        return Ok(None);
    }
    for path in segments::beside(current.files, current.real)?.iter().rev() {
        let segment = Segment::open(current.files, path)?;
        if holds(&segment.file, segment.length, mark)? {
            let (mut mark, tail) = (mark.clone(), tail_of(mark));
            add_whole_segment(current, index, &mut mark, path, tail)?;
            let sealed = mark.sealed();
            index.append(&[], true, |ids| sealed.to_bytes(ids))?;
            ::log::info!(
                "{} was rotated to {} while the service was stopped",
                current.path.display(),
                path.display()
            );
            return Ok(Some(sealed));
        }
    }
    Ok(None)
}

/// Seals the segments that were written and rotated after the mark was made. Without a crash there are none:
/// a rotation that the service sees, and an orderly stop, make the mark durable.
fn seal_later<F: Files>(current: &Current<'_, F>, index: &Dedup, mark: Mark) -> Result<Mark, ScanError> {
    let mut mark = mark;
    // While the mark names a line of the file, that one was begun before the mark.
    if mark.length > 0 {
        return Ok(mark);
    }
    // One that holds no line is nobody's, unless it was refused before.
    let (tail, was_refused) = (tail_of(&mark), mark.refused);
    for path in segments::beside(current.files, current.real)? {
        let segment = Segment::open(current.files, &path)?;
        let first = segment.first_id().map_err(|error| segments::named(&path, error))?;
        let is_later = match first {
            Some(first) => index.numbers(&[first])?.iter().all(Option::is_none),
            None => was_refused,
        };
        if is_later {
            add_whole_segment(current, index, &mut mark, &path, tail)?;
            mark = mark.sealed();
            index.append(&[], true, |ids| mark.to_bytes(ids))?;
            ::log::info!(
                "{} was rotated to {}, whose lines the index lacked",
                current.path.display(),
                path.display()
            );
        }
    }
    Ok(mark)
}

/// Whether the line that ends where the mark ends is the one that it names.
pub(super) fn holds<S: Storage>(file: &S, length: u64, mark: &Mark) -> io::Result<bool> {
    if mark.length == 0 {
        return Ok(true);
    }
    if mark.length > length || mark.length - mark.last_line > MAX_LINE as u64 {
        return Ok(false);
    }
    let mut lines = Lines::new(Section::new(file, mark.last_line, mark.length), mark.last_line);
    let Some((_, bytes)) = lines.next()? else { return Ok(false) };
    let names = line::parse(bytes).is_some_and(|line| line.event_id == mark.last_id);
    // And nothing else up to there.
    Ok(names && lines.next()?.is_none())
}

/// Reads the file from the mark to its end, mends its tail, and adds what is found to the index.
fn read_on<F: Files>(
    current: &Current<'_, F>,
    index: &Dedup,
    start: Mark,
    tail: Tail,
) -> Result<Mark, AuditError> {
    let Current { file, length, path, .. } = *current;
    let io = |source| AuditError::Recover { path: path.to_owned(), source };
    let (covered, ids_before) = (start.length, start.ids);
    let mut lines = Lines::new(Section::new(file, covered, length), covered);
    let found = scan(&mut lines, start, length.saturating_sub(MAX_UNSYNCED), index);
    let Scan { mut mark, mut ids, invalid, recorded, lines: count } =
        found.map_err(|error| error.at_start(path))?;
    let mut count = count;
    match invalid {
        None => {}
        Some(invalid) if invalid.is_whole_but_for_its_end(length) => {
            file.write_all_at(b"\n", length).map_err(io)?;
            let whole = [invalid.first.as_slice(), b"\n"].concat();
            if let Some(line) = line::parse(&whole) {
                mark.add_found(line.event_id, &line.kafka, whole.len());
                ids.push(line.event_id);
                count += 1;
            }
            ::log::warn!("the last line of {} had no line end: added it", path.display());
        }
        Some(invalid) if invalid.is_torn(tail, length) => cut(current, invalid.at, length)?,
        Some(invalid) => {
            // What was read before it needs no reading again, and positions do not pass the gap.
            let recorded = recorded.with_gaps();
            index.append(&[], true, |ids| recorded.to_bytes(ids))?;
            let number =
                line_number(&mut Lines::new(Section::new(file, 0, length), 0), invalid.at).map_err(io)?;
            let damage = Damage { at: invalid.at, line: number, why: invalid.why };
            return Err(AuditError::Damaged { path: path.to_owned(), damage });
        }
    }
    if mark.length > covered {
        sync_end(file, covered, mark.length).map_err(io)?;
        // The next start has nothing of this to do again.
        mark.ids = index.append(&ids, true, |ids| mark.to_bytes(ids))?;
        let repeated = (ids_before + count).saturating_sub(mark.ids);
        if repeated > 0 {
            ::log::warn!("{} holds {repeated} lines of events that are in the log before", path.display());
        }
    }
    Ok(mark)
}

/// Makes sure that what was found is on disk: a process may have died between write and sync, and its
/// lines are only in memory. Written again as well, since a sync that failed before may have marked them
/// clean.
fn sync_end<S: Storage>(file: &S, covered: u64, length: u64) -> io::Result<()> {
    let start = covered.max(length.saturating_sub(MAX_UNSYNCED));
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut Section::new(file, start, length), &mut bytes)?;
    file.write_all_at(&bytes, start)?;
    file.sync_data()
}

/// Cuts off what follows `at`, and keeps it in a file of its own.
fn cut<F: Files>(current: &Current<'_, F>, at: u64, length: u64) -> Result<(), AuditError> {
    let (disk, path) = (current.files.disk(), current.path);
    let suffix = Utc::now().format("torn-%Y%m%dT%H%M%S%.6fZ").to_string();
    let aside: PathBuf = segments::with_suffix(current.real, &suffix);
    let kept = disk
        .write_new(&aside, &mut Section::new(current.file, at, length))
        .and_then(|()| disk.sync_folder(&aside));
    kept.map_err(|source| {
        // Half a copy is worth nothing, and the next start makes another.
        let _ = disk.remove(&aside);
        AuditError::KeepAside { path: path.to_owned(), aside: aside.clone(), source }
    })?;
    let io = |source| AuditError::Recover { path: path.to_owned(), source };
    current.file.set_len(at).map_err(io)?;
    current.file.sync_data().map_err(io)?;
    ::log::warn!(
        "{} ended in a torn line: cut off {} bytes at byte {at}, kept in {}",
        path.display(),
        length - at,
        aside.display()
    );
    Ok(())
}
