//! How long and how old a file of the log may become before it is sealed.

use std::io;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::file::{Lines, Section, Storage};
use super::line;

/// At which a file of the log is sealed, whichever it reaches first. `None`: never by that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the file. It is sealed behind the batch that reaches them.
    pub bytes: Option<u64>,
    /// Time since its first event was audited.
    pub age: Option<Duration>,
}

impl Limits {
    /// Whether a file of that length, whose first event was audited then, has to be sealed. An empty one never has.
    pub(super) fn reached(&self, length: u64, since: Option<DateTime<Utc>>) -> bool {
        let is_long = self.bytes.is_some_and(|bytes| length >= bytes);
        let age = since.and_then(|since| (Utc::now() - since).to_std().ok());
        let is_old = self.age.zip(age).is_some_and(|(limit, age)| age >= limit);
        length > 0 && (is_long || is_old)
    }
}

/// When the first event of a file was audited. `None`: it begins with no line that says so.
pub(super) fn first_time<S: Storage>(file: &S, length: u64) -> io::Result<Option<DateTime<Utc>>> {
    let mut lines = Lines::new(Section::new(file, 0, length), 0);
    let line = lines.next()?.and_then(|(_, bytes)| line::parse(bytes));
    let time = line.and_then(|line| DateTime::parse_from_rfc3339(&line.audited_at).ok());
    Ok(time.map(|time| time.to_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sealed_at_whichever_limit_it_reaches_and_never_empty() {
        let hour = Duration::from_secs(3_600);
        let ago = |hours| Some(Utc::now() - hour * hours);
        let both = Limits { bytes: Some(100), age: Some(hour) };
        assert!(both.reached(100, ago(0)) && both.reached(1, ago(2)) && both.reached(100, None));
        assert!(!both.reached(99, ago(0)) && !both.reached(0, ago(2)) && !both.reached(99, None));
        // A clock that was set back.
        assert!(!both.reached(1, Some(Utc::now() + hour * 2)));
        assert!(!Limits::default().reached(u64::MAX, ago(99)));
    }
}
