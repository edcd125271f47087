//! Making and opening a partition. What an interrupted step left is removed, the last segment is
//! checked batch by batch, and the leader epoch rises.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex, RwLock};

use task_events::kafka::records::BatchHeader;
use tokio::sync::watch;

use super::compaction_state::CompactionState;
use super::marker;
use super::partition::{COMPACTING_DIR, Leadership, Partition, Progress, Writer, read_log_start};
use super::segment::{Segment, log_name};
use super::state::StoredState;
use crate::clock::now_ms;
use crate::config::TopicConfig;
use crate::durable;

impl StoredState {
    /// Takes note of a batch that is in the log. Those below `until` are known already.
    pub fn replay(&mut self, header: &BatchHeader, bytes: &[u8]) {
        self.epochs.begin(header.leader_epoch, header.base_offset);
        if header.base_offset >= self.until {
            self.producers.remember(header, marker::outcome(header, bytes));
            self.until = header.next_offset();
        }
    }

    /// Takes note of the batches of a closed segment that lie below `end`.
    pub fn replay_segment(&mut self, segment: &Segment, end: i64) -> io::Result<()> {
        let mut position = 0;
        while let Some(header) = segment.header_at(position)?
            && header.base_offset < end
        {
            let bytes = match header.is_control() {
                true => segment.read(position, header.size())?,
                false => Vec::new(),
            };
            self.replay(&header, &bytes);
            position += header.size() as u64;
        }
        Ok(())
    }
}

impl Partition {
    /// Makes the folder of a new partition with an empty first segment, whose leader epoch is 0
    /// during the broker's start number `start`.
    pub fn create_files(dir: &Path, start: i32) -> io::Result<()> {
        fs::create_dir(dir)?;
        Segment::create(dir.join(log_name(0)), 0)?;
        StoredState { epoch_base: start, ..StoredState::default() }.store(dir)
    }

    /// Opens a partition and recovers it.
    pub fn open(
        dir: &Path,
        topic: &str,
        index: i32,
        config: Arc<TopicConfig>,
        start: i32,
    ) -> io::Result<Self> {
        match fs::remove_dir_all(dir.join(COMPACTING_DIR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut bases = segment_bases(dir)?;
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
        let stored = StoredState::load(dir)?;
        let is_stored = stored.is_some();
        let mut state = stored.unwrap_or_default();
        if !is_stored {
            for segment in &segments {
                state.replay_segment(segment, i64::MAX)?;
            }
        }
        let stored_until = state.until;
        let mut active_since_ms = None;
        let active = match last {
            Some(base) => Segment::open_active(dir.join(log_name(base)), base, |header, bytes| {
                state.replay(header, bytes);
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
        let end = written.next_offset;
        let log_start = read_log_start(dir)?.clamp(first, end.max(first));
        if stored_until > end {
            log::warn!("{}: the log ends before what its state knows; it is read again", dir.display());
            state = StoredState { epoch_base: state.epoch_base, ..StoredState::default() };
            for segment in &segments {
                state.replay_segment(segment, i64::MAX)?;
            }
        }
        let leadership = lead(&mut state, is_stored, start, end, log_start);
        if !is_stored || stored_until > end || leadership.base != state.epoch_base {
            StoredState { epoch_base: leadership.base, until: end, ..state.clone() }.store(dir)?;
        }
        let mut producers = state.producers;
        producers.forget_before(log_start);
        let progress = Progress {
            high_watermark: end,
            last_stable: producers.last_stable(end),
            log_end: end,
            appended_bytes: 0,
            leader_epoch: leadership.epoch,
        };
        Ok(Self {
            topic: topic.to_owned(),
            index,
            dir: dir.to_owned(),
            config: RwLock::new(config),
            segments: RwLock::new(segments),
            log_start: AtomicI64::new(log_start),
            progress: watch::Sender::new(progress),
            writer: Mutex::new(Writer {
                written,
                dirty: false,
                failed: false,
                active_since_ms: active_since_ms.unwrap_or_else(now_ms),
            }),
            producers: Mutex::new(producers),
            leadership: RwLock::new(leadership),
            maintenance: Mutex::new(CompactionState::load(dir)),
            deleted: AtomicBool::new(false),
            throttled: AtomicBool::new(false),
        })
    }
}

/// The epoch of this start: higher than any in the log, also where the count of starts was lost.
fn lead(state: &mut StoredState, is_stored: bool, start: i32, end: i64, log_start: i64) -> Leadership {
    state.epochs.truncate_end(end);
    let mut epochs = state.epochs.clone();
    epochs.truncate_start(log_start);
    let next = epochs.latest().map_or(0, |latest| latest.saturating_add(1));
    let counted = if is_stored { start.saturating_sub(state.epoch_base) } else { next };
    let epoch = counted.max(next);
    epochs.begin(epoch, end);
    Leadership { epoch, base: start.saturating_sub(epoch), start_offset: end, epochs }
}

/// The base offsets of the segment files, in order. Unfinished files are removed.
fn segment_bases(dir: &Path) -> io::Result<Vec<i64>> {
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
    Ok(bases)
}
