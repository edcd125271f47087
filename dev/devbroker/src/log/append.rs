//! The writer thread's side of a partition: appending, rolling, syncing, truncating.

use std::io;
use std::sync::{Arc, PoisonError};

use kafka_protocol::error::ResponseError;
use task_events::kafka::records::{self, BatchHeader};

use super::marker;
use super::partition::{Appended, Partition, Writer};
use super::segment::{Extent, Segment, log_name};
use super::state::StoredState;
use crate::clock::now_ms;
use crate::durable;

impl Partition {
    fn active(&self) -> io::Result<Arc<Segment>> {
        self.segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .cloned()
            .ok_or_else(|| io::Error::other("partition has no segment"))
    }

    /// Writes a checked batch, giving it its offsets. Readers see it after [`Self::sync`].
    pub fn append(&self, bytes: &mut [u8], header: BatchHeader) -> Result<Appended, ResponseError> {
        let mut writer = self.writer();
        if self.is_deleted() {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        if writer.failed {
            return Err(ResponseError::KafkaStorageError);
        }
        if let Some(base_offset) = self.producers().check(&header)? {
            let next_offset = base_offset + i64::from(header.last_offset_delta) + 1;
            return Ok(Appended { base_offset, next_offset, log_append_time: -1 });
        }
        let stored = self.try_append(&mut writer, bytes, header);
        stored.map_err(|error| {
            log::error!("cannot append to {}: {error}", self.dir.display());
            ResponseError::KafkaStorageError
        })
    }

    fn try_append(
        &self,
        writer: &mut Writer,
        bytes: &mut [u8],
        mut header: BatchHeader,
    ) -> io::Result<Appended> {
        let config = self.config();
        let now = now_ms();
        let full = writer.written.size + bytes.len() as u64 > config.segment_bytes;
        let old = now.saturating_sub(writer.active_since_ms) >= config.segment_ms;
        if writer.written.size > 0 && (full || old) {
            self.roll_locked(writer)?;
        }
        header.base_offset = writer.written.next_offset;
        header.leader_epoch = self.leader_epoch();
        records::set_place(bytes, header.base_offset, header.leader_epoch);
        let mut log_append_time = -1;
        if config.log_append_time {
            records::set_log_append_time(bytes, header.attributes, now);
            header.max_timestamp = now;
            log_append_time = now;
        }
        if writer.written.size == 0 {
            writer.active_since_ms = now;
        }
        writer.written = self.active()?.write(&writer.written, &header, bytes)?;
        writer.dirty = true;
        self.producers().remember(&header, marker::outcome(&header, bytes));
        Ok(Appended { base_offset: header.base_offset, next_offset: header.next_offset(), log_append_time })
    }

    /// Makes all that was written durable, then visible.
    pub fn sync(&self) -> io::Result<()> {
        self.sync_locked(&mut self.writer())
    }

    pub(super) fn sync_locked(&self, writer: &mut Writer) -> io::Result<()> {
        if writer.failed {
            return Err(io::Error::other("an earlier sync failed; restart the broker"));
        }
        if !writer.dirty {
            return Ok(());
        }
        let active = self.active()?;
        if let Err(error) = active.sync() {
            writer.failed = true;
            return Err(error);
        }
        writer.dirty = false;
        let added = writer.written.size - active.extent().size;
        active.publish(writer.written);
        let log_end = writer.written.next_offset;
        self.progress.send_modify(|progress| {
            progress.log_end = log_end;
            progress.appended_bytes += added;
        });
        self.publish(writer);
        Ok(())
    }

    /// Lets consumers see what is durable, unless a fault holds the high watermark.
    pub(super) fn publish(&self, _alone: &Writer) {
        if self.config().faults.hold_high_watermark.contains(self.index) {
            return;
        }
        let high_watermark = self.progress().log_end;
        let last_stable = self.producers().last_stable(high_watermark);
        self.progress.send_modify(|progress| {
            progress.high_watermark = high_watermark;
            progress.last_stable = last_stable;
        });
    }

    /// Closes the active segment and starts a new one, unless it is empty.
    pub fn roll(&self) -> io::Result<()> {
        let mut writer = self.writer();
        if writer.written.size == 0 || self.is_deleted() {
            return Ok(());
        }
        self.roll_locked(&mut writer)
    }

    fn roll_locked(&self, writer: &mut Writer) -> io::Result<()> {
        self.sync_locked(writer)?;
        let active = self.active()?;
        active.close()?;
        let base = writer.written.next_offset;
        // Before the segment, so that nothing below its base has to be read again.
        self.stored_state(base).store(&self.dir)?;
        let fresh = Segment::create(self.dir.join(log_name(base)), base)?;
        durable::sync_dir(&self.dir)?;
        self.change_segments(|segments| segments.push(Arc::new(fresh)));
        writer.written = Extent::empty(base);
        writer.active_since_ms = now_ms();
        Ok(())
    }

    /// Forgets the aborted transactions whose markers are at these offsets, durably.
    pub fn forget_markers(&self, gone: &[i64]) -> io::Result<()> {
        let mut writer = self.writer();
        if !self.producers().forget_markers(gone) {
            return Ok(());
        }
        // What is stored as known has to be in the log.
        self.sync_locked(&mut writer)?;
        self.stored_state(writer.written.next_offset).store(&self.dir)
    }

    /// What the batches below `until`, which is the log's end, add up to.
    fn stored_state(&self, until: i64) -> StoredState {
        let leadership = self.leadership.read().unwrap_or_else(PoisonError::into_inner);
        let mut epochs = leadership.epochs.clone();
        // An epoch without a record yet is known by the number of the start.
        epochs.truncate_end(until);
        StoredState { epoch_base: leadership.base, until, epochs, producers: self.producers().clone() }
    }
}
