//! A progress bar on stderr for work that takes long: only on a terminal, and only once it has taken a moment.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use task_events::operate;

/// Shorter work needs no bar.
const DELAY: Duration = Duration::from_millis(400);
/// Time between two pictures.
const EVERY: Duration = Duration::from_millis(100);
/// Characters of the bar.
const WIDTH: u64 = 30;

/// How much of a piece of work is done. The bar is cleared when this value is dropped.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: u64,
    done: u64,
    start: Instant,
    drawn: Option<Instant>,
    is_shown: bool,
}

impl Default for Progress {
    /// Nothing is to be done yet.
    fn default() -> Self {
        let is_shown = io::stderr().is_terminal();
        Self { what: "", unit: "", total: 0, done: 0, start: Instant::now(), drawn: None, is_shown }
    }
}

impl Progress {
    /// Nothing is done yet of `total` units of the work called `what`.
    pub fn new(what: &'static str, total: u64, unit: &'static str) -> Self {
        Self { what, unit, total, ..Self::default() }
    }

    fn line(&self, elapsed: Duration) -> String {
        let done = self.done.min(self.total);
        let filled = (done * WIDTH).checked_div(self.total).unwrap_or(WIDTH);
        let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { '.' }).collect();
        let rate = self.done as f64 / elapsed.as_secs_f64().max(0.001);
        let Self { what, unit, total, .. } = self;
        format!("{what} [{bar}] {done} of {total} {unit}, {rate:.0}/s")
    }
}

/// A line in place of the last one. It is not wrapped: what a narrow terminal wraps, no later picture takes back.
fn picture(line: &str) -> String {
    const NO_WRAP: &str = "\x1b[?7l";
    const WRAP: &str = "\x1b[?7h";
    const CLEAR: &str = "\r\x1b[K";
    format!("{CLEAR}{NO_WRAP}{line}{WRAP}")
}

impl operate::Progress for Progress {
    fn begin(&mut self, what: &'static str, unit: &'static str) {
        *self = Self::new(what, 0, unit);
    }

    fn add_total(&mut self, more: u64) {
        self.total += more;
    }

    fn add(&mut self, more: u64) {
        self.done += more;
        let now = Instant::now();
        let is_due = self.drawn.is_none_or(|drawn| now - drawn >= EVERY) && now - self.start >= DELAY;
        if self.is_shown && is_due {
            self.drawn = Some(now);
            // A picture that is not drawn is no loss.
            let _ = write!(io::stderr(), "{}", picture(&self.line(now - self.start)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use task_events::operate::Progress as _;

    use super::*;

    #[test]
    fn a_narrow_terminal_wraps_no_bar() {
        assert_eq!(picture("[#.]"), "\r\x1b[K\x1b[?7l[#.]\x1b[?7h");
    }

    #[test]
    fn the_bar_fills_as_work_is_done_and_never_beyond_its_end() {
        let mut progress = Progress::new("reading", 200, "records");
        progress.is_shown = false;
        let bar = |progress: &Progress| progress.line(Duration::from_secs(1));
        assert_eq!(bar(&progress), "reading [..............................] 0 of 200 records, 0/s");
        progress.add(100);
        assert_eq!(bar(&progress), "reading [###############...............] 100 of 200 records, 100/s");
        progress.add(150);
        assert_eq!(bar(&progress), "reading [##############################] 200 of 200 records, 250/s");
        assert!(Progress::new("x", 0, "y").line(DELAY).contains("#] 0 of 0 y"), "nothing to do is done");
    }
}
