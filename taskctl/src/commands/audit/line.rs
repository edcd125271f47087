//! A line of an audit log, as verifying reads it.

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The longest line, in bytes: an event has 256 KiB at most.
pub(super) const MAX_LINE: u64 = 1024 * 1024;
/// Findings that are shown; all are counted.
pub(super) const SHOWN: usize = 20;

/// A line, as far as it matters here; that the rest is there matters, too.
#[derive(Deserialize)]
#[allow(dead_code, reason = "read to see that they are there")]
pub(super) struct Line<'a> {
    pub(super) event_id: Uuid,
    event_type: String,
    occurred_at: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    audited_at: String,
    pub(super) kafka: At,
}

#[derive(Deserialize)]
pub(super) struct At {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    let line =
        bytes.strip_suffix(b"\n").ok_or("it has no end; a service that starts with this log cuts it off")?;
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
