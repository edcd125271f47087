//! Retention: whole closed segments go when they are too old or the partition is too large.

use std::io;
use std::time::UNIX_EPOCH;

use super::partition::Partition;
use super::segment::{Extent, Segment};

/// Deletes what `retention.ms` and `retention.bytes` no longer keep, and moves the log start.
/// Blocking.
pub(crate) fn enforce(partition: &Partition, now_ms: i64) -> io::Result<()> {
    let config = partition.config();
    if !config.delete {
        return Ok(());
    }
    let _alone = partition.lock_maintenance();
    let segments = partition.segments();
    let Some((active, closed)) = segments.split_last() else {
        return Ok(());
    };
    let mut total: u64 = segments.iter().map(|segment| segment.extent().size).sum();
    let limit = u64::try_from(config.retention_bytes).ok();
    let oldest = now_ms.saturating_sub(config.retention_ms);
    let mut keep_from = partition.log_start();
    let nexts = closed.iter().skip(1).chain([active]);
    for (segment, next) in closed.iter().zip(nexts) {
        let extent = segment.extent();
        let too_old = config.retention_ms >= 0 && last_time(segment, &extent)? < oldest;
        let too_large = limit.is_some_and(|limit| total - extent.size >= limit);
        if !too_old && !too_large {
            break;
        }
        total -= extent.size;
        keep_from = next.base_offset;
    }
    if keep_from > partition.log_start() {
        log::info!(
            "{}-{}: retention deletes the records before offset {keep_from}",
            partition.topic,
            partition.index
        );
        partition.delete_before_locked(keep_from)?;
    }
    Ok(())
}

/// Whether the active segment should be closed, so that retention or compaction can have it.
pub(crate) fn should_roll(partition: &Partition, now_ms: i64) -> bool {
    let config = partition.config();
    let Some(active) = partition.segments().pop() else {
        return false;
    };
    let extent = active.extent();
    let expired = config.delete
        && config.retention_ms >= 0
        && extent.max_timestamp >= 0
        && extent.max_timestamp < now_ms.saturating_sub(config.retention_ms);
    extent.size > 0 && (expired || partition.active_age_ms(now_ms) >= config.segment_ms)
}

/// The largest record timestamp, or when the file was written where records have none.
fn last_time(segment: &Segment, extent: &Extent) -> io::Result<i64> {
    if extent.max_timestamp >= 0 {
        return Ok(extent.max_timestamp);
    }
    let modified = segment.path().metadata()?.modified()?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
