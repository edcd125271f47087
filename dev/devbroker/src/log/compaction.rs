//! Compaction: closed segments are rewritten so that each key keeps only its last record.
//!
//! A run first maps the keys of the dirty part (what came since the last run) to their last
//! offsets, then rewrites every segment up to there, leaving out records that the map supersedes.
//! Offsets stay, so gaps appear. A tombstone stays for `delete.retention.ms` after the run that
//! first met it: its batch then carries that time as its delete horizon, as in Kafka.
//!
//! Transactions: only what lies below the last stable offset is compacted. Records of aborted
//! transactions go in the first run. A marker stays as long as a record of its transaction does,
//! and then for `delete.retention.ms` as a tombstone does; with an abort marker goes the note of
//! its transaction, so that a reader never learns of an abort whose end it cannot see.
//!
//! Crash safety: the new segment is written and synced in a folder of its own, then renamed over
//! the first segment it replaces; the others are deleted after that. On start the folder is
//! removed, and a segment that overlaps the one before it was left by a cut-off deletion.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use task_events::kafka::records::{Batch, BatchBuilder, BatchHeader, ConsumerRecord};

use super::compaction_state::CompactionState;
use super::partition::{COMPACTING_DIR, Partition};
use super::producers::Aborted;
use super::segment::{Segment, log_name};
use crate::config::TopicConfig;

/// Keys mapped in one run, which bounds its memory to about 100 MB; more wait for the next run.
const MAX_KEYS: usize = 1_000_000;

/// When to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// When the topic's configs say that it pays.
    Due,
    /// Whatever the configs say.
    Forced,
}

/// Compacts the closed segments of a partition. Blocking. Returns whether a run took place.
pub(crate) fn compact(partition: &Partition, trigger: Trigger, now_ms: i64) -> io::Result<bool> {
    let mut maintenance = partition.lock_maintenance();
    let config = partition.config();
    let segments = compactable(partition, &config, trigger, now_ms);
    if partition.is_deleted() || !is_due(&segments, &maintenance, &config, trigger, now_ms) {
        return Ok(false);
    }
    let aborted = partition.aborted(0, i64::MAX);
    let keys = Keys::of(&segments, maintenance.clean_until, &aborted)?;
    let mut run = Run {
        log_start: partition.log_start(),
        keys,
        now_ms,
        horizon: now_ms.saturating_add(config.delete_retention_ms),
        next_horizon: None,
        aborted,
        kept_of: HashMap::new(),
        gone_markers: Vec::new(),
    };
    let until = segments.partition_point(|segment| segment.base_offset < run.keys.until);
    let dir = partition.dir().join(COMPACTING_DIR);
    for group in grouped(segments.get(..until).unwrap_or_default(), config.segment_bytes) {
        fs::create_dir_all(&dir)?;
        replace(partition, group, &mut run)?;
        fs::remove_dir_all(&dir)?;
    }
    *maintenance = CompactionState { clean_until: run.keys.until, next_horizon: run.next_horizon };
    maintenance.store(partition.dir())?;
    Ok(true)
}

/// The closed segments that are old enough.
fn compactable(
    partition: &Partition,
    config: &TopicConfig,
    trigger: Trigger,
    now_ms: i64,
) -> Vec<Arc<Segment>> {
    let mut segments = partition.segments();
    segments.pop();
    let stable = partition.progress().last_stable;
    segments.truncate(segments.partition_point(|segment| segment.extent().next_offset <= stable));
    if trigger == Trigger::Due && config.min_compaction_lag_ms > 0 {
        let latest = now_ms.saturating_sub(config.min_compaction_lag_ms);
        let young = |segment: &Arc<Segment>| segment.extent().max_timestamp > latest;
        segments.truncate(segments.iter().position(young).unwrap_or(segments.len()));
    }
    segments
}

fn is_due(
    segments: &[Arc<Segment>],
    state: &CompactionState,
    config: &TopicConfig,
    trigger: Trigger,
    now_ms: i64,
) -> bool {
    let end = segments.last().map_or(0, |last| last.extent().next_offset);
    let is_dirty = |segment: &&Arc<Segment>| segment.extent().next_offset > state.clean_until;
    let size = |segment: &Arc<Segment>| segment.extent().size as f64;
    let dirty: f64 = segments.iter().filter(is_dirty).map(size).sum();
    let all: f64 = segments.iter().map(size).sum();
    let tombstones_due = state.next_horizon.is_some_and(|horizon| horizon <= now_ms);
    match trigger {
        Trigger::Forced => end > state.clean_until || tombstones_due,
        Trigger::Due => {
            let worth = dirty > 0.0 && dirty / all >= config.min_cleanable_dirty_ratio;
            config.compact && (worth || tombstones_due)
        }
    }
}

/// Neighbours that fit into one segment together.
fn grouped(segments: &[Arc<Segment>], segment_bytes: u64) -> Vec<&[Arc<Segment>]> {
    let mut groups = Vec::new();
    let mut rest = segments;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|segment| {
            bytes += segment.extent().size;
            bytes <= segment_bytes
        });
        let (group, after) = rest.split_at(fits.count().max(1));
        groups.push(group);
        rest = after;
    }
    groups
}

/// The last offset of each key of the dirty part. Keys are kept as 128-bit hashes under random
/// seeds, so that two of them never meet in practice.
struct Keys {
    last: HashMap<u128, i64>,
    seeds: (RandomState, RandomState),
    /// The map knows every key between the clean part and this offset.
    until: i64,
}

impl Keys {
    fn of(segments: &[Arc<Segment>], clean_until: i64, aborted: &[Aborted]) -> io::Result<Self> {
        let mut keys = Self {
            last: HashMap::new(),
            seeds: (RandomState::new(), RandomState::new()),
            until: clean_until,
        };
        for segment in segments {
            let end = segment.extent().next_offset;
            if end <= clean_until {
                continue;
            }
            let mut position = 0;
            while let Some(header) = segment.header_at(position)? {
                if header.next_offset() > clean_until {
                    if keys.last.len() >= MAX_KEYS {
                        return Ok(keys);
                    }
                    if !header.is_control() && !is_aborted(aborted, &header) {
                        keys.add(segment.read(position, header.size())?);
                    }
                    keys.until = header.next_offset();
                }
                position += header.size() as u64;
            }
            keys.until = end;
        }
        Ok(keys)
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let half = |seed: &RandomState| u128::from(seed.hash_one(key));
        half(&self.seeds.0) << 64 | half(&self.seeds.1)
    }

    fn add(&mut self, bytes: Vec<u8>) {
        for record in records(&bytes.into()).unwrap_or_default() {
            if let Some(key) = record.key {
                self.last.insert(self.hash(&key), record.offset);
            }
        }
    }

    fn supersede(&self, key: &[u8], offset: i64) -> bool {
        self.last.get(&self.hash(key)).is_some_and(|last| *last > offset)
    }
}

struct Run {
    log_start: i64,
    keys: Keys,
    now_ms: i64,
    /// What a tombstone met for the first time gets.
    horizon: i64,
    next_horizon: Option<i64>,
    aborted: Vec<Aborted>,
    /// Whether a record is kept of the transaction that a producer has open at this point.
    kept_of: HashMap<i64, bool>,
    /// Offsets of the markers that this segment group loses.
    gone_markers: Vec<i64>,
}

/// Whether a batch belongs to an aborted transaction.
fn is_aborted(aborted: &[Aborted], header: &BatchHeader) -> bool {
    let holds = |transaction: &Aborted| {
        transaction.producer_id == header.producer_id
            && (transaction.first_offset..transaction.last_offset).contains(&header.base_offset)
    };
    header.is_transactional() && aborted.iter().any(holds)
}

/// Writes one segment in place of a group of them.
fn replace(partition: &Partition, group: &[Arc<Segment>], run: &mut Run) -> io::Result<()> {
    let Some((first, others)) = group.split_first() else {
        return Ok(());
    };
    let path = partition.dir().join(COMPACTING_DIR).join(log_name(first.base_offset));
    let cleaned = Segment::create(path, first.base_offset)?;
    let mut extent = cleaned.extent();
    for segment in group {
        let mut position = 0;
        while let Some(header) = segment.header_at(position)? {
            let bytes = segment.read(position, header.size())?;
            position += bytes.len() as u64;
            if let Some(bytes) = run.clean(&header, bytes.into())
                && let Some(header) = BatchHeader::parse(&bytes)
            {
                extent = cleaned.write(&extent, &header, &bytes)?;
            }
        }
    }
    // The end stays where it was, also when the last records went.
    extent.next_offset = group.last().map_or(0, |last| last.extent().next_offset);
    cleaned.sync()?;
    cleaned.publish(extent);
    cleaned.close()?;
    // Before the markers go: an abort that is listed without its marker would hide what its
    // producer wrote after it.
    partition.forget_markers(&std::mem::take(&mut run.gone_markers))?;
    let cleaned = Arc::new(cleaned.rename_into(partition.dir())?);
    partition.change_segments(|segments| {
        let group_start = first.base_offset;
        let group_end = group.last().map_or(group_start, |last| last.base_offset);
        segments.retain(|segment| !(group_start..=group_end).contains(&segment.base_offset));
        let at = segments.partition_point(|segment| segment.base_offset < group_start);
        segments.insert(at, cleaned);
    });
    for segment in others {
        segment.remove_files()?;
    }
    Ok(())
}

impl Run {
    /// What stays of a batch; `None` when nothing does.
    fn clean(&mut self, header: &BatchHeader, bytes: Bytes) -> Option<Bytes> {
        // A batch that cannot be read or lies beyond the map stays whole.
        if header.base_offset >= self.keys.until {
            return Some(bytes);
        }
        let Some(records) = records(&bytes) else {
            return Some(bytes);
        };
        if header.is_control() {
            return self.clean_marker(header, bytes, records);
        }
        if is_aborted(&self.aborted, header) {
            return None;
        }
        let horizon = header.delete_horizon();
        let may_drop_tombstones = horizon.is_some_and(|horizon| horizon <= self.now_ms);
        let count = records.len();
        let mut kept = records;
        kept.retain(|record| {
            let Some(key) = &record.key else {
                return false;
            };
            record.offset >= self.log_start
                && !self.keys.supersede(key, record.offset)
                && !(record.value.is_none() && may_drop_tombstones)
        });
        if kept.is_empty() {
            return None;
        }
        if header.is_transactional() {
            self.kept_of.insert(header.producer_id, true);
        }
        let has_tombstone = kept.iter().any(|record| record.value.is_none());
        let new_horizon = has_tombstone.then(|| horizon.unwrap_or(self.horizon));
        self.expect(new_horizon);
        if kept.len() == count && new_horizon == horizon {
            return Some(bytes);
        }
        Some(rewritten(header, bytes, kept, new_horizon))
    }

    /// A marker goes when no record of its transaction is left, `delete.retention.ms` after that
    /// was first seen.
    fn clean_marker(
        &mut self,
        header: &BatchHeader,
        bytes: Bytes,
        records: Vec<ConsumerRecord>,
    ) -> Option<Bytes> {
        if self.kept_of.remove(&header.producer_id).unwrap_or(false) {
            return Some(bytes);
        }
        let horizon = header.delete_horizon();
        if horizon.is_some_and(|horizon| horizon <= self.now_ms) {
            self.gone_markers.push(header.base_offset);
            return None;
        }
        self.expect(Some(horizon.unwrap_or(self.horizon)));
        match horizon {
            Some(_) => Some(bytes),
            None => Some(rewritten(header, bytes, records, Some(self.horizon))),
        }
    }

    /// Takes note of the next time when something may go.
    fn expect(&mut self, horizon: Option<i64>) {
        if let Some(horizon) = horizon {
            self.next_horizon = Some(self.next_horizon.map_or(horizon, |next| next.min(horizon)));
        }
    }
}

/// All records of a batch; none when one of them cannot be read.
fn records(batch: &Bytes) -> Option<Vec<ConsumerRecord>> {
    Batch::of(batch.clone())?.records().collect::<Result<_, _>>().ok()
}

/// The batch with only the records in `kept`, or as it is when it cannot be written again.
fn rewritten(
    header: &BatchHeader,
    bytes: Bytes,
    kept: Vec<ConsumerRecord>,
    delete_horizon: Option<i64>,
) -> Bytes {
    let built = BatchBuilder::replacing(header, delete_horizon).and_then(|mut builder| {
        kept.into_iter().for_each(|record| builder.push(record));
        builder.build()
    });
    match built {
        Ok(built) => built.into(),
        Err(error) => {
            log::warn!("kept the batch at offset {} as it is: {error}", header.base_offset);
            bytes
        }
    }
}
