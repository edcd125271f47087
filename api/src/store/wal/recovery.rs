//! Finds out at a start what is in the log behind what the database has.

use std::collections::BTreeMap;
use std::io;

use task_events::disk::Disk;

use super::files::{FIRST_FRAME, Files, Segment, SegmentError};
use super::frame::{Frame, FrameReader, Numbers};
use super::{Limits, Place, Position};

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum LogError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Frames are missing, or damaged, and what follows them was answered.
    #[error("{0}")]
    Damaged(String),
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        Self::Segment(error.into())
    }
}

/// What was found.
#[derive(Debug)]
pub(in crate::store) struct Found {
    /// Where the log ends.
    pub(in crate::store) end: Position,
    /// Segments in which nothing counts.
    pub(in crate::store) empty: Vec<u64>,
    /// There is no log at all, though the database names one.
    pub(in crate::store) is_gone: bool,
}

/// Reads the frames behind that position, in order. They are on disk when this returns, and so are the names
/// of their segments.
pub(in crate::store) fn read_tail(
    disk: &dyn Disk,
    files: &Files,
    limits: &Limits,
    applied: Position,
    mut each: impl FnMut(Place, &Frame<'_>) -> Result<(), LogError>,
) -> Result<Found, LogError> {
    let numbers = files.numbers();
    let mut found = Found { end: applied, empty: Vec::new(), is_gone: false };
    if applied.seq > 0 && !numbers.contains(&applied.end.segment) {
        if numbers.is_empty() {
            return Ok(Found { is_gone: true, ..found });
        }
        let path = files.path(applied.end.segment);
        return Err(LogError::Damaged(format!("{} is missing", path.display())));
    }
    let tail = numbers.into_iter().filter(|number| *number >= applied.end.segment);
    let segments = tail.map(|number| files.open(number)).collect::<Result<Vec<_>, _>>()?;
    let begin = |number: u64| match applied.end {
        Place { segment, offset } if segment == number => offset.max(FIRST_FRAME),
        _ => FIRST_FRAME,
    };
    // The first number in each: a segment begins with what the one before could not write.
    let mut firsts = BTreeMap::new();
    for segment in segments.iter().filter(|segment| segment.number > applied.end.segment) {
        if let Some(frame) = reader(segment, limits, FIRST_FRAME).next()? {
            firsts.insert(segment.number, frame.seq);
        }
    }
    for segment in &segments {
        let next = firsts.range(segment.number + 1..).next().map(|(_, seq)| *seq);
        let before = found.end.seq;
        let mut frames = reader(segment, limits, begin(segment.number));
        if segment.number == applied.end.segment || firsts.contains_key(&segment.number) {
            read_segment(segment.number, &mut frames, next, &mut found.end, &mut each)?;
            if let Some(seq) = next.filter(|seq| found.end.seq + 1 < *seq) {
                return Err(LogError::Damaged(format!(
                    "{} is damaged: frames {} to {} are missing, and later ones are there",
                    files.path(segment.number).display(),
                    found.end.seq + 1,
                    seq - 1
                )));
            }
        }
        if next.is_none() {
            look_for_damage(files, segment, limits, frames.offset(), found.end.seq)?;
        }
        if found.end.seq > before {
            segment.file.sync_data()?;
        } else if segment.number > applied.end.segment {
            found.empty.push(segment.number);
        }
    }
    disk.sync_folder(&files.path(0))?;
    Ok(found)
}

/// Reads on while frames follow each other, up to the number with which the next segment begins.
fn read_segment(
    segment: u64,
    frames: &mut FrameReader,
    next: Option<u64>,
    end: &mut Position,
    each: &mut impl FnMut(Place, &Frame<'_>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    loop {
        let place = Place { segment, offset: frames.offset() };
        let Some(frame) = frames.next()? else { return Ok(()) };
        if frame.seq != end.seq + 1 || next.is_some_and(|next| frame.seq >= next) {
            frames.skip_to(place.offset);
            return Ok(());
        }
        each(place, &frame)?;
        end.seq = frame.seq;
        end.end = Place { offset: frames.offset(), ..place };
    }
}

/// Behind the end of the log there may be what is left of one group that was never synced: it begins with the frame
/// that is missing, or before it. A whole frame of a later group was written after that one was on disk.
fn look_for_damage(
    files: &Files,
    segment: &Segment,
    limits: &Limits,
    end: u64,
    last_seq: u64,
) -> Result<(), LogError> {
    let most = last_seq.saturating_add(limits.segment_bytes);
    let is_later =
        |numbers: &Numbers| numbers.group > last_seq + 1 && (numbers.group..most).contains(&numbers.seq);
    match reader(segment, limits, end).find(end..limits.segment_bytes, is_later)? {
        None => Ok(()),
        Some(at) => Err(LogError::Damaged(format!(
            "{} is damaged at byte {end}: a whole frame of a later write follows at byte {at}",
            files.path(segment.number).display()
        ))),
    }
}

fn reader(segment: &Segment, _limits: &Limits, from: u64) -> FrameReader {
    #[cfg_attr(not(test), expect(unused_mut))]
    let mut frames = segment.frames_from(from);
    #[cfg(test)]
    {
        frames.trusts_anything = _limits.plants(super::Planted::AnyFrame);
    }
    frames
}
