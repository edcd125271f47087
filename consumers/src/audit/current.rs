//! The log as it is under its name, with its segments beside it: what recovery looks at.

use std::io::{self, Read};
use std::path::Path;

use task_events::dedup::Dedup;

use super::Damage;
use super::file::{Files, Lines};
use super::mark::Mark;
use super::scan::{ScanError, Tail, scan};
use super::segments::{self, Segment};

/// The file under the log's name, open.
pub(super) struct Current<'a, F: Files> {
    pub(super) files: &'a F,
    pub(super) file: &'a F::File,
    pub(super) length: u64,
    pub(super) path: &'a Path,
    /// The same without symbolic links: where its segments are.
    pub(super) real: &'a Path,
}

/// Adds the lines of a segment that are behind the mark, up to what is damaged in it, if anything is. A torn end is left out.
pub(super) fn add_segment<F: Files>(
    current: &Current<'_, F>,
    index: &Dedup,
    mark: &mut Mark,
    path: &Path,
    tail: Tail,
) -> Result<Option<ScanError>, ScanError> {
    let segment = Segment::open(current.files, path)?;
    let scan = scan(&mut segment.lines(mark.length), mark.clone(), u64::MAX, index);
    let scan = scan.map_err(|error| error.of_segment(path))?;
    *mark = scan.mark;
    mark.ids = index.append(&scan.ids, false, |ids| mark.to_bytes(ids))?;
    let Some(invalid) = scan.invalid else { return Ok(None) };
    if invalid.is_torn(tail, segment.length) {
        let (path, at, why) = (path.display(), invalid.at, invalid.why);
        ::log::warn!("{path} ends in no line of an audit log at byte {at}: {why}");
        return Ok(None);
    }
    let line =
        line_number(&mut segment.lines(0), invalid.at).map_err(|error| segments::named(path, error))?;
    let damage = Damage { at: invalid.at, line, why: invalid.why };
    Ok(Some(ScanError::Damaged { path: path.to_owned(), damage }))
}

/// As [`add_segment`], and refuses a segment that is damaged: lines behind the damage would be written again. The index is then
/// as it was, and positions do not pass the gap.
pub(super) fn add_whole_segment<F: Files>(
    current: &Current<'_, F>,
    index: &Dedup,
    mark: &mut Mark,
    path: &Path,
    tail: Tail,
) -> Result<(), ScanError> {
    let before = mark.with_gaps();
    let Some(damage) = add_segment(current, index, mark, path, tail)? else { return Ok(()) };
    index.truncate(before.ids, &before.to_bytes(before.ids))?;
    Err(damage)
}

/// The number of the line that starts at that byte; the first is 1.
pub(super) fn line_number<R: Read>(lines: &mut Lines<R>, at: u64) -> io::Result<u64> {
    let mut number = 1;
    while lines.next()?.is_some_and(|(start, bytes)| start + (bytes.len() as u64) <= at) {
        number += 1;
    }
    Ok(number)
}
