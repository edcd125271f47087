//! Values of arguments that several commands have.

use chrono::{DateTime, Utc};

/// A time in RFC 3339.
pub(crate) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc()).map_err(|_| "not an RFC 3339 time such as 2026-01-15T10:30:00Z".to_owned())
}
