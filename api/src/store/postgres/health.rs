//! Whether the database takes changes, as the last attempts have found.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use task_events::database::DatabaseError;
use task_events::error_code::Code;
use tokio::time::Instant;

use super::super::failure::WriteFailure;

/// How long attempts fail before changes are refused at once: a restart or a failover of the database may be shorter.
const REFUSE_AFTER: Duration = Duration::from_secs(2);
/// How often it is logged that it still fails.
const REMIND_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Failing>>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    logged: Instant,
    failure: WriteFailure,
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
                *failing = Some(Failing { since: now, logged: now, failure });
            }
            Some(failing) => {
                if now - failing.logged >= REMIND_EVERY {
                    let seconds = (now - failing.since).as_secs();
                    log::warn!("changes fail since {seconds} s: {failure}");
                    failing.logged = now;
                }
                failing.failure = failure;
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

    pub(super) fn failure(&self) -> Option<WriteFailure> {
        self.failing().as_ref().map(|failing| failing.failure.clone())
    }

    /// The same once it has failed for some time: changes are not even tried.
    pub(super) fn refusal(&self) -> Option<WriteFailure> {
        let failing = self.failing();
        failing.as_ref().filter(|now| now.since.elapsed() >= REFUSE_AFTER).map(|now| now.failure.clone())
    }
}
