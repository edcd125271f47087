//! Lines on stderr, where the log cannot be used.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::output::write_within;
use crate::escape::escape_control;

/// Time for a line.
const STDERR_LIMIT: Duration = Duration::from_millis(500);

/// Writes a line to stderr, if that is taken within a moment.
pub fn to_stderr(line: &str) {
    // There is nowhere left to report a stderr that nobody reads.
    let _ =
        write_within(io::stderr().as_fd(), format!("{}\n", escape_control(line)).as_bytes(), STDERR_LIMIT);
}
