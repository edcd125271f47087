//! The way out of a process that cannot start: one line on stderr.

use std::fmt;

use super::logging::flush;
use super::stderr::to_stderr;
use crate::error_code::Code;

/// Ends the process with one line on stderr. The single way out of a binary whose start failed.
pub fn exit_with(error: impl fmt::Display) -> ! {
    exit_saying(&format!("error: {error}"), 1)
}

/// The same for an error that has a code in the catalogue.
pub fn exit_with_code(code: Code, error: impl fmt::Display) -> ! {
    exit_with(code.after(error))
}

/// Ends the process with that line on stderr and that exit code, whoever reads stderr, or does not.
pub fn exit_saying(line: &str, code: i32) -> ! {
    flush();
    to_stderr(line);
    std::process::exit(code)
}
