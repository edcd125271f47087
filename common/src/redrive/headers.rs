//! The headers of a redriven copy.

use crate::kafka::Headers;

/// The header of a redriven copy that names the only group which is to handle it.
pub const GROUP_HEADER: &str = "redrive-group";
/// The header of a redriven copy that names its dead letter, as topic/partition/offset.
pub const LETTER_HEADER: &str = "redrive-dead-letter";

/// Whether a record is for this group: one that names no group is for all.
pub fn is_for(headers: &Headers, group: &str) -> bool {
    headers.last(GROUP_HEADER).is_none_or(|header| header.value == Some(group.as_bytes()))
}

/// Whether a header is one that redriving adds.
pub(crate) fn is_redrive_header(name: &[u8]) -> bool {
    [GROUP_HEADER, LETTER_HEADER].iter().any(|header| header.as_bytes() == name)
}
