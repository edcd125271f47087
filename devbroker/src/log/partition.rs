//! One partition: a list of segments, the last of which takes appends.
//!
//! Appends, rolls and syncs happen on the writer thread only ([`super::writer`]). Readers see a
//! batch once it is on disk: publishing the active segment's extent and then the high watermark
//! is the last step of an append.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use kafka_protocol::error::ResponseError;
use tokio::sync::watch;

use super::batch::{self, BatchHeader};
use super::compaction::CompactionState;
use super::producers::Producers;
use super::segment::{Extent, Segment, log_name};
use crate::config::TopicConfig;
use crate::{durable, now_ms};

const LOG_START_FILE: &str = "log-start-offset";
/// Segments being written by compaction stand here until they replace their originals.
pub(crate) const COMPACTING_DIR: &str = "compacting";

/// What a waiting fetch watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The offset after the last durable record.
    pub high_watermark: i64,
    /// Bytes appended since the start of the process, to tell whether `min_bytes` may be there.
    pub appended_bytes: u64,
}

/// What a read returned.
#[derive(Debug, Default)]
pub(crate) struct ReadBatches {
    pub bytes: Vec<u8>,
}

/// A timestamp and its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOffset {
    pub timestamp: i64,
    pub offset: i64,
}

/// The answer to an append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    pub base_offset: i64,
    /// -1 unless the topic stamps the broker's time.
    pub log_append_time: i64,
}

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    pub topic: String,
    pub index: i32,
    dir: PathBuf,
    config: RwLock<Arc<TopicConfig>>,
    segments: RwLock<Vec<Arc<Segment>>>,
    log_start: AtomicI64,
    progress: watch::Sender<Progress>,
    writer: Mutex<Writer>,
    /// Held by whoever removes or replaces closed segments: compaction, retention, DeleteRecords.
    maintenance: Mutex<CompactionState>,
    deleted: AtomicBool,
}

/// What the writer thread knows beyond what readers see.
#[derive(Debug)]
struct Writer {
    written: Extent,
    dirty: bool,
    /// Set for good after a failed sync: what the disk then holds is unknown.
    failed: bool,
    active_since_ms: i64,
    producers: Producers,
}

impl Partition {
    /// Makes the folder of a new partition with an empty first segment.
    pub fn create_files(dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)?;
        Segment::create(dir.join(log_name(0)), 0)?;
        durable::sync_dir(dir)
    }

    /// Opens a partition and recovers it: leftovers of interrupted steps are removed, the last
    /// segment is checked batch by batch.
    pub fn open(dir: &Path, topic: &str, index: i32, config: Arc<TopicConfig>) -> io::Result<Self> {
        match fs::remove_dir_all(dir.join(COMPACTING_DIR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut bases = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with('~') {
                fs::remove_file(&path)?;
            } else if let Some(base) = name.strip_suffix(".log") {
                bases.push(base.parse::<i64>().map_err(io::Error::other)?);
            }
        }
        bases.sort_unstable();
        let last = bases.pop();
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        for base in bases {
            let segment = Segment::open_closed(dir.join(log_name(base)), base)?;
            if segments.last().is_some_and(|before| before.extent().next_offset > base) {
                // Compaction had merged it into the one before and was killed before deleting it.
                segment.remove_files()?;
                continue;
            }
            segments.push(Arc::new(segment));
        }
        let mut producers = Producers::default();
        let mut active_since_ms = None;
        let active = match last {
            Some(base) => Segment::open_active(dir.join(log_name(base)), base, |header| {
                producers.remember(header);
                active_since_ms.get_or_insert(header.max_timestamp);
            })?,
            None => {
                let segment = Segment::create(dir.join(log_name(0)), 0)?;
                durable::sync_dir(dir)?;
                segment
            }
        };
        let written = active.extent();
        segments.push(Arc::new(active));
        let first = segments.first().map_or(0, |segment| segment.base_offset);
        let log_start = read_log_start(dir)?.clamp(first, written.next_offset.max(first));
        Ok(Self {
            topic: topic.to_owned(),
            index,
            dir: dir.to_owned(),
            config: RwLock::new(config),
            segments: RwLock::new(segments),
            log_start: AtomicI64::new(log_start),
            progress: watch::Sender::new(Progress { high_watermark: written.next_offset, appended_bytes: 0 }),
            writer: Mutex::new(Writer {
                written,
                dirty: false,
                failed: false,
                active_since_ms: active_since_ms.unwrap_or_else(now_ms),
                producers,
            }),
            maintenance: Mutex::new(CompactionState::load(dir)),
            deleted: AtomicBool::new(false),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_config(&self, config: Arc<TopicConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The segments now, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the segment list in one step, from what it is at that moment.
    pub fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        change(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn high_watermark(&self) -> i64 {
        self.progress.borrow().high_watermark
    }

    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// Wakes when records come or the partition goes.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Refuses, or again allows, everything that changes files. The caller holds the maintenance
    /// lock; with the writer's taken here, no change is under way when this returns.
    pub fn set_deleted(&self, deleted: bool) {
        let _idle = self.writer();
        self.deleted.store(deleted, Ordering::Release);
        // Wakes the waiting fetches.
        self.progress.send_modify(|_| {});
    }

    /// Keeps compaction, retention and DeleteRecords away for as long as it lives.
    pub fn lock_maintenance(&self) -> MutexGuard<'_, CompactionState> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> io::Result<Arc<Segment>> {
        self.segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .cloned()
            .ok_or_else(|| io::Error::other("partition has no segment"))
    }

    /// How long ago the active segment got its first batch, in milliseconds.
    pub fn active_age_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.writer().active_since_ms)
    }

    // --- the writer thread's side ---

    /// Writes a checked batch, giving it its offsets. Readers see it after [`Self::sync`].
    pub fn append(&self, bytes: &mut [u8], header: BatchHeader) -> Result<Appended, ResponseError> {
        let mut writer = self.writer();
        if self.is_deleted() {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        if writer.failed {
            return Err(ResponseError::KafkaStorageError);
        }
        if let Some(base_offset) = writer.producers.check(&header)? {
            return Ok(Appended { base_offset, log_append_time: -1 });
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
        batch::set_base_offset(bytes, header.base_offset);
        let mut log_append_time = -1;
        if config.log_append_time {
            batch::set_log_append_time(bytes, header.attributes, now);
            header.max_timestamp = now;
            log_append_time = now;
        }
        if writer.written.size == 0 {
            writer.active_since_ms = now;
        }
        writer.written = self.active()?.write(&writer.written, &header, bytes)?;
        writer.dirty = true;
        writer.producers.remember(&header);
        Ok(Appended { base_offset: header.base_offset, log_append_time })
    }

    /// Makes all that was written durable, then visible.
    pub fn sync(&self) -> io::Result<()> {
        self.sync_locked(&mut self.writer())
    }

    fn sync_locked(&self, writer: &mut Writer) -> io::Result<()> {
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
        self.progress.send_modify(|progress| {
            progress.high_watermark = writer.written.next_offset;
            progress.appended_bytes += added;
        });
        Ok(())
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
        let fresh = Segment::create(self.dir.join(log_name(base)), base)?;
        durable::sync_dir(&self.dir)?;
        self.change_segments(|segments| segments.push(Arc::new(fresh)));
        writer.written = Extent::empty(base);
        writer.active_since_ms = now_ms();
        Ok(())
    }

    // --- readers ---

    /// Reads whole batches from the one that holds `offset` on, at most `max_bytes`; the first
    /// batch comes back even when it is larger if `at_least_one`. Blocking.
    ///
    /// The error is OFFSET_OUT_OF_RANGE outside of log start and high watermark.
    pub fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReadBatches, ResponseError> {
        let high_watermark = self.high_watermark();
        if offset < self.log_start() || offset > high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if offset == high_watermark {
            return Ok(ReadBatches::default());
        }
        self.try_read(offset, max_bytes, at_least_one).map_err(|error| {
            log::error!("cannot read {} at {offset}: {error}", self.dir.display());
            ResponseError::KafkaStorageError
        })
    }

    fn try_read(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> io::Result<ReadBatches> {
        let segments = self.segments();
        let from = segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
        // After compaction a segment may hold nothing from `offset` on: then the next one does.
        for segment in segments.iter().skip(from) {
            let Some(position) = segment.position_of(offset)? else {
                continue;
            };
            let Some(first) = segment.header_at(position)? else {
                continue;
            };
            if first.size() > max_bytes && !at_least_one {
                return Ok(ReadBatches::default());
            }
            let visible = usize::try_from(segment.extent().size - position).unwrap_or(usize::MAX);
            let size = max_bytes.max(first.size()).min(visible);
            let mut bytes = segment.read(position, size)?;
            bytes.truncate(whole_batches(&bytes));
            return Ok(ReadBatches { bytes });
        }
        Ok(ReadBatches::default())
    }

    /// The first record with a timestamp of at least `timestamp`. Blocking.
    pub fn offset_at_time(&self, timestamp: i64) -> io::Result<Option<TimedOffset>> {
        let log_start = self.log_start();
        for segment in self.segments() {
            let extent = segment.extent();
            if extent.max_timestamp < timestamp || extent.next_offset <= log_start {
                continue;
            }
            let Some((mut position, _)) = segment.batch_at_time(timestamp)? else {
                continue;
            };
            while let Some(header) = segment.header_at(position)? {
                if header.max_timestamp >= timestamp {
                    let bytes = segment.read(position, header.size())?;
                    let wanted =
                        |found: &TimedOffset| found.timestamp >= timestamp && found.offset >= log_start;
                    if let Some(found) = timed_offsets(&header, &bytes).into_iter().find(wanted) {
                        return Ok(Some(found));
                    }
                }
                position += header.size() as u64;
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp. Blocking.
    pub fn max_timestamp(&self) -> io::Result<Option<TimedOffset>> {
        let largest = self.segments().iter().map(|segment| segment.extent().max_timestamp).max();
        match largest {
            Some(timestamp) if timestamp >= 0 => self.offset_at_time(timestamp),
            _ => Ok(None),
        }
    }

    /// Moves the log start to `offset`, durably, and deletes closed segments wholly below it.
    /// Blocking. Returns the log start after it.
    pub fn delete_before(&self, offset: i64) -> io::Result<i64> {
        let _alone = self.lock_maintenance();
        self.delete_before_locked(offset)
    }

    /// As [`Self::delete_before`], for who holds the maintenance lock.
    pub fn delete_before_locked(&self, offset: i64) -> io::Result<i64> {
        if offset <= self.log_start() || self.is_deleted() {
            return Ok(self.log_start());
        }
        durable::replace(&self.dir.join(LOG_START_FILE), offset.to_string().as_bytes())?;
        self.log_start.store(offset, Ordering::Release);
        let mut gone = Vec::new();
        self.change_segments(|segments| {
            while let [first, second, ..] = segments.as_slice()
                && second.base_offset <= offset
            {
                gone.push(first.clone());
                segments.remove(0);
            }
        });
        for segment in gone {
            segment.remove_files()?;
        }
        Ok(offset)
    }
}

fn read_log_start(dir: &Path) -> io::Result<i64> {
    match fs::read_to_string(dir.join(LOG_START_FILE)) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Bytes of the whole batches at the start of `bytes`.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(header) = bytes.get(end..).and_then(BatchHeader::parse) {
        if end + header.size() > bytes.len() {
            break;
        }
        end += header.size();
    }
    end
}

/// Timestamp and offset of each record; of the batch as a whole when its codec is not readable.
fn timed_offsets(header: &BatchHeader, bytes: &[u8]) -> Vec<TimedOffset> {
    let each = batch::unfold(header, bytes).and_then(|unfolded| {
        let records = batch::records(&unfolded, header.count)?;
        Ok(records
            .iter()
            .map(|record| TimedOffset {
                timestamp: header.timestamp_of(record),
                offset: header.offset_of(record),
            })
            .collect())
    });
    each.unwrap_or_else(|_| vec![TimedOffset { timestamp: header.max_timestamp, offset: header.base_offset }])
}
