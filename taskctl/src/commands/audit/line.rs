//! A line of an audit log, as verifying reads it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::plain::{self, At, Line};

#[derive(Deserialize)]
#[allow(dead_code, reason = "read to see that they are there")]
struct Fields<'a> {
    event_id: Uuid,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    occurred_at: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    audited_at: Cow<'a, str>,
    #[serde(borrow)]
    kafka: At<'a>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    let line =
        bytes.strip_suffix(b"\n").ok_or("it has no end; a service that starts with this log cuts it off")?;
    match plain::parse(line) {
        Some(line) => Ok(line),
        None => parse_any(line).map_err(|error| error.to_string()),
    }
}

/// Reads a line in any form of JSON.
pub(super) fn parse_any(line: &[u8]) -> serde_json::Result<Line<'_>> {
    let Fields { event_id, kafka, .. } = serde_json::from_slice(line)?;
    Ok(Line { event_id, kafka })
}

/// The id that a line begins with, as the audit service writes it. The rest of the line may be anything.
pub(super) fn first_id(bytes: &[u8]) -> Option<Uuid> {
    let id = bytes.strip_prefix(br#"{"event_id":""#)?.get(..36)?;
    Uuid::try_parse_ascii(id).ok()
}
