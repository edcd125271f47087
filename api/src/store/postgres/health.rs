//! Whether the database takes changes, as the last attempts have found.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use task_events::database::{DatabaseError, Trouble};
use task_events::error_code::Code;
use tokio::time::Instant;

use super::super::failure::WriteFailure;

/// How long attempts fail before changes are refused at once: a restart or a failover of the database may be shorter.
const REFUSE_AFTER: Duration = Duration::from_secs(2);
/// How often it is logged that it still fails.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// Least time between two log lines about one matter, where what fails changes.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// Where only a change tells whether changes are taken, one is let through so often.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Without a failure for so long, while changes were let through if there were any, they are expected to be taken.
const TRIED_FOR: Duration = Duration::from_secs(5);
/// How long a database that lets changes wait may answer nothing, before reads are refused at once.
const SILENT_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Failing>>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    logged: Instant,
    failure: WriteFailure,
    trouble: Trouble,
    /// When it failed last, when a change was let through, and when the database answered anything.
    failed: Instant,
    tried: Instant,
    answered: Instant,
}

impl Failing {
    /// Whether only a change tells: a smaller write, or one to another table, says nothing of space, or of rights; and a
    /// connection that cannot be had nothing of those that are there.
    fn is_tried(&self) -> bool {
        matches!(self.trouble, Trouble::Full | Trouble::Schema | Trouble::Crowded)
    }
}

/// Whether a line that would be logged again and again is due: on a change, and now and then.
#[derive(Debug, Default)]
pub(super) struct Reminder(Option<(String, Instant)>);

impl Reminder {
    pub(super) fn is_due(&mut self, line: &str) -> bool {
        let wait = |before: &str| if before == line { REMIND_EVERY } else { LOG_EVERY };
        let is_due = self.0.as_ref().is_none_or(|(before, logged)| logged.elapsed() >= wait(before));
        if is_due {
            self.0 = Some((line.to_owned(), Instant::now()));
        }
        is_due
    }
}

impl Health {
    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt failed.
    pub(super) fn failed(&self, place: &str, error: &DatabaseError) {
        let (failure, now) = (WriteFailure::of_database(place, error), Instant::now());
        let mut failing = self.failing();
        match failing.as_mut() {
            None => {
                log::error!("changes fail: {failure} {}", Code::Database);
                let trouble = error.trouble();
                let (since, logged, failed, tried, answered) = (now, now, now, now, now);
                *failing = Some(Failing { since, logged, failure, trouble, failed, tried, answered });
            }
            Some(failing) => {
                if now - failing.logged >= REMIND_EVERY {
                    let seconds = (now - failing.since).as_secs();
                    log::warn!("changes fail since {seconds} s: {failure}");
                    failing.logged = now;
                }
                (failing.failure, failing.trouble, failing.failed) = (failure, error.trouble(), now);
            }
        }
    }

    /// A change was made.
    pub(super) fn works(&self) {
        if let Some(failing) = self.failing().take() {
            log::info!(
                "the database takes changes again after {:.1} s",
                failing.since.elapsed().as_secs_f64()
            );
        }
    }

    /// The database answers, and took a small write, if changes fail. Space for another one may still be missing.
    pub(super) fn answers(&self) {
        let is_tried = |now: &Failing| now.is_tried() && now.failed.elapsed() < TRIED_FOR;
        if !self.failing().as_ref().is_some_and(is_tried) {
            self.works();
        }
    }

    /// The database answers, whatever becomes of changes.
    pub(super) fn is_there(&self) {
        if let Some(failing) = self.failing().as_mut() {
            failing.answered = Instant::now();
        }
    }

    pub(super) fn failure(&self) -> Option<WriteFailure> {
        self.failing().as_ref().map(|failing| failing.failure.clone())
    }

    /// The same once it has failed for some time: changes are not even tried.
    pub(super) fn refusal(&self) -> Option<WriteFailure> {
        let failing = self.failing();
        failing.as_ref().filter(|now| now.since.elapsed() >= REFUSE_AFTER).map(|now| now.failure.clone())
    }

    /// The same, but for one change now and then where only that tells.
    pub(super) fn refusal_of_change(&self) -> Option<WriteFailure> {
        let mut failing = self.failing();
        let failing = failing.as_mut().filter(|now| now.since.elapsed() >= REFUSE_AFTER)?;
        if failing.is_tried() && failing.tried.elapsed() >= TRY_EVERY {
            failing.tried = Instant::now();
            return None;
        }
        Some(failing.failure.clone())
    }

    /// Why reads are not even tried: the database is not there. One that only takes no changes is read.
    pub(super) fn refusal_of_read(&self) -> Option<WriteFailure> {
        let failing = self.failing();
        let is_away = |now: &&Failing| match now.trouble {
            Trouble::Connection => now.since.elapsed() >= REFUSE_AFTER,
            Trouble::Timeout => now.answered.elapsed() >= SILENT_FOR,
            _ => false,
        };
        failing.as_ref().filter(is_away).map(|now| now.failure.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_are_logged_on_a_change_and_now_and_then() {
        let mut reminder = Reminder::default();
        let mut due = 0;
        for _ in 0..4 * 120 {
            due += usize::from(reminder.is_due("away"));
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        assert_eq!(due, 2);
        assert!(reminder.is_due("full") && !reminder.is_due("away"));
    }
}
