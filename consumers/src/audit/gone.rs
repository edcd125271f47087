//! Lines that are gone: the file under the log's name has not what it had.
//!
//! It was truncated, deleted, edited, or replaced by another (a backup, say). What is under the log's
//! name, and in the segments that were sealed, is the truth: ids whose lines are in neither are forgotten,
//! and reading goes on behind the last line that is as it was, so that what Kafka still has is written again.

use task_events::dedup::Dedup;
use uuid::Uuid;

use super::current::{Current, add_segment};
use super::file::{Files, Lines, Section};
use super::line::{self, At};
use super::mark::Mark;
use super::scan::{ScanError, Tail};
use super::segments;

/// Lines that are compared at once.
const CHUNK: usize = 4_096;

/// Whether the file has nothing of the log: it is empty, or begins with what no line of the log is.
pub(super) fn is_new<F: Files>(current: &Current<'_, F>, index: &Dedup) -> Result<bool, ScanError> {
    let mut lines = Lines::new(Section::new(current.file, 0, current.length), 0);
    let Some(line) = lines.next()?.and_then(|(_, bytes)| line::parse(bytes)) else { return Ok(true) };
    Ok(index.numbers(&[line.event_id])?.iter().all(Option::is_none))
}

/// Forgets the ids whose lines are gone. Returns what is known of the log up to the last line that is as it
/// was, and says what is missing.
pub(super) fn forget<F: Files>(
    current: &Current<'_, F>,
    index: &Dedup,
    before: &Mark,
) -> Result<(Mark, String), ScanError> {
    let mut mark = common_start(current, index, before)?.with_gaps();
    let gone = before.ids - mark.ids;
    index.truncate(mark.ids, &mark.to_bytes(mark.ids))?;
    if mark.length == 0 {
        // Another hand may have copied it first, as logrotate's copytruncate does.
        let ids = mark.ids;
        for path in segments::beside(current.files, current.real)? {
            let mut with_segment = mark.without_file();
            if let Some(damage) = add_segment(current, index, &mut with_segment, &path, Tail::Unsynced)? {
                ::log::warn!("{damage}; lines behind that may be written again");
            }
            mark.ids = with_segment.ids;
        }
        if mark.ids > ids {
            mark = mark.sealed();
        }
        index.append(&[], true, |ids| mark.to_bytes(ids))?;
    }
    let missing = format!(
        "audit log {} has lost lines: it had {} bytes and now has {}, of which the first {} are as they were; the lines of {gone} events are gone; reading again from {} and writing what Kafka still has",
        current.path.display(),
        before.length,
        current.length,
        mark.length,
        mark.positions()
    );
    Ok((mark, missing))
}

/// The log up to the last line of the file that is where it was.
fn common_start<F: Files>(current: &Current<'_, F>, index: &Dedup, before: &Mark) -> Result<Mark, ScanError> {
    let mut mark = before.before_file();
    let mut lines = Lines::new(Section::new(current.file, 0, current.length), 0);
    let mut chunk: Vec<(Uuid, At<'static>, usize)> = Vec::new();
    loop {
        chunk.clear();
        while chunk.len() < CHUNK {
            let Some((_, bytes)) = lines.next()? else { break };
            let Some(line) = line::parse(bytes) else { break };
            chunk.push((line.event_id, line.kafka.into_owned(), bytes.len()));
        }
        let ids: Vec<Uuid> = chunk.iter().map(|(id, ..)| *id).collect();
        for ((event_id, at, bytes), number) in chunk.iter().zip(index.numbers(&ids)?) {
            match number {
                Some(number) if number == mark.ids => mark.ids += 1,
                // Once more what is in the log before.
                Some(number) if number < mark.ids => {}
                _ => return Ok(mark),
            }
            mark.add_found(*event_id, at, *bytes);
        }
        if chunk.len() < CHUNK {
            return Ok(mark);
        }
    }
}
