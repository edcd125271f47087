//! Lines as they are cut for a write.

/// The first whole lines of the bytes, as many as the limit has space for; one, where that is longer.
pub(super) fn whole_lines(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    let (within, _) = bytes.split_at(limit);
    let end = within.iter().rposition(|byte| *byte == b'\n');
    let end = end.or_else(|| bytes.iter().position(|byte| *byte == b'\n'));
    end.and_then(|end| bytes.get(..=end)).unwrap_or(bytes)
}
