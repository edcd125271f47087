//! The log as it is under its name, with its segments beside it: what recovery looks at.

use std::path::Path;

use task_events::dedup::Dedup;

use super::file::Files;
use super::mark::Mark;
use super::scan::{ScanError, scan};
use super::segments::Segment;

/// The file under the log's name, open.
pub(super) struct Current<'a, F: Files> {
    pub(super) files: &'a F,
    pub(super) file: &'a F::File,
    pub(super) length: u64,
    pub(super) path: &'a Path,
    /// The same without symbolic links: where its segments are.
    pub(super) real: &'a Path,
}

/// Adds the lines of a segment that are behind the mark.
pub(super) fn add_segment<F: Files>(
    current: &Current<'_, F>,
    index: &Dedup,
    mark: &mut Mark,
    path: &Path,
) -> Result<(), ScanError> {
    let segment = Segment::open(current.files, path)?;
    let scan = scan(&mut segment.lines(mark.length), mark.clone(), u64::MAX, index);
    let scan = scan.map_err(|error| error.of_segment(path))?;
    if let Some(invalid) = &scan.invalid {
        ::log::warn!(
            "{} holds no line of an audit log at byte {}: {}",
            path.display(),
            invalid.at,
            invalid.why
        );
    }
    *mark = scan.mark;
    mark.ids = index.append(&scan.ids, false, |ids| mark.to_bytes(ids))?;
    Ok(())
}
