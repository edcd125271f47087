//! Appends groups to the log: one write and one fdatasync each.

use std::io;
use std::sync::Arc;

use super::files::{FIRST_FRAME, Files, Segment, naming};
use super::frame::Group;
use super::{Limits, Place, Position};

#[derive(Debug)]
pub(in crate::store) struct Appender {
    files: Arc<Files>,
    limits: Limits,
    /// The last frame that is on disk.
    last_seq: u64,
    /// The segment that is written to. `None` at the start, and after a failure.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    /// Where the next group goes.
    at: u64,
}

impl Appender {
    /// The log goes on after the last frame that was found, in a fresh segment.
    pub(in crate::store) fn after(files: Arc<Files>, limits: Limits, last_seq: u64) -> io::Result<Self> {
        let mut appender = Self { files, limits, last_seq, open: None };
        appender.open_next()?;
        Ok(appender)
    }

    /// Puts a group on disk. Returns where it begins, and the position behind it.
    pub(in crate::store) fn append(&mut self, group: &mut Group) -> io::Result<(Place, Position)> {
        let length = group.len() as u64;
        let is_full = |open: &Open, limits: &Limits| open.at + length > limits.segment_bytes;
        if self.open.as_ref().is_none_or(|open| is_full(open, &self.limits)) {
            self.open = None;
            self.open_next()?;
        }
        // It is put back once the group is on disk: after a failure nothing more is written to it.
        let Some(mut open) = self.open.take() else { return Err(io::Error::other("there is no segment")) };
        let start = Place { segment: open.segment.number, offset: open.at };
        if let Err(error) = self.write(&open, group) {
            self.files.set_failed(open.segment.number);
            return Err(naming(&self.files.path(open.segment.number), &error));
        }
        open.at += length;
        self.last_seq += group.frames();
        let end = Place { offset: open.at, ..start };
        self.open = Some(open);
        Ok((start, Position { seq: self.last_seq, end }))
    }

    fn write(&self, open: &Open, group: &mut Group) -> io::Result<()> {
        open.segment.file.write_all_at(group.seal(open.segment.seed, self.last_seq + 1), open.at)?;
        #[cfg(test)]
        if self.limits.plants(super::Planted::NoSync) {
            return Ok(());
        }
        open.segment.file.sync_data()
    }

    /// The segment that is written to; `None` after a failure.
    pub(in crate::store) fn segment(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.segment.number)
    }

    /// Whether the next segment is needed soon.
    pub(in crate::store) fn needs_next_soon(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.at * 2 >= self.limits.segment_bytes)
    }

    fn open_next(&mut self) -> io::Result<()> {
        let segment = self.files.take_next()?;
        self.open = Some(Open { segment, at: FIRST_FRAME });
        Ok(())
    }
}
