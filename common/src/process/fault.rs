//! Why flags and variables that are each good do not do together.

use clap::error::ErrorKind;

/// What is wrong with several variables together, or with a file that one of them names.
#[derive(Debug)]
pub(super) enum Fault {
    Usage(String),
    File(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Usage(why)
    }
}

impl From<Fault> for clap::Error {
    fn from(fault: Fault) -> Self {
        let (kind, why) = match fault {
            Fault::Usage(why) => (ErrorKind::ValueValidation, why),
            Fault::File(why) => (ErrorKind::Io, why),
        };
        Self::raw(kind, format!("{why}\n"))
    }
}
