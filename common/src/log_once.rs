//! Logs a condition that lasts: a warning when it begins and seldom while it lasts, a line when it is over.
//!
//! A retry loop fails several times a second for as long as an outage lasts. Its log says what is wrong at
//! most once in [`REPEAT`] for each cause, and is closed by one line that says that it works again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The same warning is logged again after this time.
pub const REPEAT: Duration = Duration::from_secs(30);
/// Texts that are distinguished: a cause may show as a time-out, then as a refused connection, and again.
const MAX_TEXTS: usize = 8;

/// The log of one condition.
#[derive(Debug)]
pub struct LogOnce {
    target: &'static str,
    /// When each text was last logged; numbers in it (offsets, times) do not make another text of it.
    logged: HashMap<String, Instant>,
    /// Since when the condition lasts.
    since: Option<Instant>,
    /// A warning was logged that no line has closed yet.
    open: bool,
}

impl LogOnce {
    /// For a condition that the module `target` looks after: `module_path!()`.
    pub fn new(target: &'static str) -> Self {
        Self { target, logged: HashMap::new(), since: None, open: false }
    }

    /// Logs the warning, unless the same was logged less than [`REPEAT`] ago.
    pub fn warn(&mut self, text: &str) {
        if self.is_due(text, Instant::now()) {
            log::warn!(target: self.target, "{text}");
        }
    }

    /// The condition is over: logs so, with how long it lasted, if a warning was logged.
    pub fn over(&mut self, text: &str) {
        if let Some(lasted) = self.closes(Instant::now()) {
            log::info!(target: self.target, "{text} (after {:.1} s)", lasted.as_secs_f32());
        }
    }

    fn is_due(&mut self, text: &str, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.logged.retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        let key: String = text.chars().filter(|char| !char.is_ascii_digit()).collect();
        if self.logged.contains_key(&key) || self.logged.len() >= MAX_TEXTS {
            return false;
        }
        self.logged.insert(key, now);
        self.open = true;
        true
    }

    fn closes(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        std::mem::take(&mut self.open).then(|| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_one_line_in_half_a_minute_and_one_at_its_end() {
        let mut log = LogOnce::new(module_path!());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(log.is_due("timeout after 10 s at offset 5", at(0)));
        assert!(!log.is_due("timeout after 11 s at offset 6", at(100)), "only its numbers differ");
        assert!(log.is_due("connection refused", at(200)), "another cause");
        assert!(!log.is_due("timeout after 10 s at offset 5", at(300)));
        assert!(log.is_due("timeout after 10 s at offset 5", at(30_000)));
        assert_eq!(log.closes(at(31_000)), Some(Duration::from_secs(31)));
        assert_eq!(log.closes(at(31_500)), None, "closed once");
    }

    #[test]
    fn a_condition_that_flaps_does_not_fill_the_log() {
        let mut log = LogOnce::new(module_path!());
        let start = Instant::now();
        let mut lines = 0;
        for n in 0..290 {
            lines += usize::from(log.is_due("it fails", start + Duration::from_millis(100 * n)));
            lines += usize::from(log.closes(start + Duration::from_millis(100 * n + 50)).is_some());
        }
        assert_eq!(lines, 2);
    }

    #[test]
    fn texts_that_all_differ_are_bounded() {
        let mut log = LogOnce::new(module_path!());
        let now = Instant::now();
        let due = (0..26u8).filter(|n| log.is_due(&char::from(b'a' + n).to_string(), now)).count();
        assert_eq!(due, MAX_TEXTS);
    }
}
