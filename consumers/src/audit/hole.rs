//! A hole of zeros in front of lines: what is left where another hand truncated the file before a write.

use std::io;

use super::file::{Section, Storage};

/// Bytes that are looked at in one step for where a hole starts.
const HOLE_STEP: u64 = 64 * 1024;

/// Cuts off the zeros that end at `end`, and what follows them.
pub(super) fn cut_hole<S: Storage>(file: &S, end: u64) -> io::Result<()> {
    let mut data_end = end;
    while data_end > 0 {
        let start = data_end.saturating_sub(HOLE_STEP);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut Section::new(file, start, data_end), &mut bytes)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            data_end = start + last as u64 + 1;
            break;
        }
        data_end = start;
    }
    file.set_len(data_end)?;
    file.sync_data()
}
