//! Cutting a log's end, as a follower does that becomes leader by an unclean election: only the
//! fault `devbroker.truncate` does that here.

use std::fs::{self, OpenOptions};
use std::io;
use std::sync::{Arc, PoisonError};

use super::partition::Partition;
use super::segment::Segment;
use super::state::StoredState;
use crate::durable;

impl Partition {
    /// Loses the batch that holds `offset` and all behind it, and begins a new leader epoch at the
    /// end that is left. Where the log ends before `offset` only the epoch changes. On the writer
    /// thread; blocking.
    pub fn truncate(&self, offset: i64) -> io::Result<()> {
        let mut maintenance = self.lock_maintenance();
        let mut writer = self.writer();
        if self.is_deleted() || offset < self.log_start() {
            return Err(io::Error::other("the offset is before the log start, or the topic is deleted"));
        }
        self.sync_locked(&mut writer)?;
        let segments = self.segments();
        let at = segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
        let (kept, lost) = segments.split_at_checked(at + 1).unwrap_or((&segments, &[]));
        let cut = kept.last().ok_or_else(|| io::Error::other("partition has no segment"))?;
        let (position, end) = match cut.position_of(offset)? {
            Some(position) => {
                let header = cut.header_at(position)?;
                (position, header.map_or(offset, |header| header.base_offset))
            }
            None => (cut.extent().size, cut.extent().next_offset),
        };
        let mut state = StoredState::default();
        for segment in kept {
            state.replay_segment(segment, end)?;
        }
        let mut leadership = self.leadership.write().unwrap_or_else(PoisonError::into_inner);
        // First, so that the epoch is never given out twice, whatever comes of the rest.
        leadership.base -= 1;
        leadership.epoch += 1;
        state.epoch_base = leadership.base;
        state.until = end;
        state.store(&self.dir)?;
        for segment in lost.iter().rev() {
            segment.remove_files()?;
        }
        let fresh = Arc::new(reopened(cut, position)?);
        writer.written = fresh.extent();
        self.change_segments(|segments| {
            segments.truncate(at);
            segments.push(fresh);
        });
        maintenance.truncate(&self.dir, end)?;
        leadership.start_offset = end;
        leadership.epochs = state.epochs;
        leadership.epochs.truncate_start(self.log_start());
        let epoch = leadership.epoch;
        leadership.epochs.begin(epoch, end);
        let mut producers = self.producers();
        *producers = state.producers;
        producers.forget_before(self.log_start());
        let last_stable = producers.last_stable(end);
        self.progress.send_modify(|progress| {
            progress.log_end = end;
            progress.high_watermark = end;
            progress.last_stable = last_stable;
            progress.leader_epoch = epoch;
        });
        log::info!("{}-{}: truncated to offset {end}, leader epoch {epoch}", self.topic, self.index);
        Ok(())
    }
}

/// The segment with only its first `size` bytes, open for appends.
fn reopened(segment: &Segment, size: u64) -> io::Result<Segment> {
    let path = segment.path().to_owned();
    // An index that covers more than its log would be taken for a stale one: it goes first.
    match fs::remove_file(path.with_extension("index")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(size)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), durable::sync_dir)?;
    Segment::open_active(path, segment.base_offset, |_, _| {})
}
