//! What the partitions of the webhook notifier share: the endpoint, and what it last said.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use task_events::error_code::Code;
use task_events::http_client::Url;
use task_events::networks::Networks;
use task_events::watched_file::WatchedFile;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::counts::Counts;
use super::exchange::{Endpoint, Outcome};
use super::signature::Secrets;

/// Deliveries at one time.
const MAX_CONNECTIONS: usize = 32;
/// Time between the first try and the second; it grows threefold.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Longest time between two tries, unless the receiver asks for a longer one.
const MAX_DELAY: Duration = Duration::from_secs(5 * 60);

/// Where webhooks go, and how.
#[derive(Debug)]
pub struct Config {
    /// Where.
    pub url: Url,
    /// CAs that may have signed its certificate; without, the system's.
    pub ca: Option<PathBuf>,
    /// Internal networks that may be called.
    pub allowed: Networks,
    /// Tries of one event, the first included.
    pub tries: NonZero<u32>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    /// Tries of one event.
    pub(super) tries: NonZero<u32>,
    pub(super) counts: Counts,
    pub(super) secrets: WatchedFile<Secrets>,
    pub(super) connections: Semaphore,
    said: Mutex<Said>,
}

/// What the endpoint said.
#[derive(Debug, Default)]
struct Said {
    is_gone: bool,
    paused_until: Option<Instant>,
    failure: Option<String>,
}

impl Shared {
    pub(super) fn new(endpoint: Endpoint, tries: NonZero<u32>, secrets: WatchedFile<Secrets>) -> Self {
        let (counts, connections) = (Counts::default(), Semaphore::new(MAX_CONNECTIONS));
        Self { endpoint, tries, counts, secrets, connections, said: Mutex::default() }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.said().paused_until.filter(|until| *until > Instant::now())
    }

    /// Keeps what an answer asks of all events. To be done while its connection is held.
    pub(super) fn heed(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Paused(pause, _) => {
                let (mut said, until) = (self.said(), Instant::now() + *pause);
                said.paused_until = said.paused_until.max(Some(until));
            }
            Outcome::Gone => self.is_found_gone(),
            Outcome::Delivered | Outcome::Failed(_) => {}
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.said().is_gone
    }

    /// It is not called again by this process.
    fn is_found_gone(&self) {
        if !std::mem::replace(&mut self.said().is_gone, true) {
            log::error!(
                "WEBHOOK_URL is gone: it answered 410 and is not called any more; events go to the DLQ until another one is set and this service is started again; then redrive them with `taskctl dlq redrive` {}",
                Code::WebhookGone
            );
        }
    }

    pub(super) fn works(&self) {
        if self.said().failure.take().is_some() {
            log::info!("WEBHOOK_URL takes webhooks again");
        }
    }

    /// Logged once while it lasts.
    pub(super) fn failed(&self, why: &str) {
        let before = self.said().failure.replace(why.to_owned());
        if before.is_none() {
            log::warn!("WEBHOOK_URL does not take a webhook: {why}; its task waits, and it is tried again");
        }
    }

    pub(super) fn last_failure(&self) -> String {
        self.said().failure.clone().unwrap_or_else(|| "it is slow".to_owned())
    }
}

/// Time before the next try, after so many.
pub(super) fn retry_delay(tries: u32) -> Duration {
    FIRST_DELAY.saturating_mul(3_u32.saturating_pow(tries.saturating_sub(1))).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_more_slowly() {
        let seconds: Vec<u64> = (1..9).map(|tries| retry_delay(tries).as_secs()).collect();
        assert_eq!(seconds, [1, 3, 9, 27, 81, 243, 300, 300]);
        assert_eq!(retry_delay(u32::MAX), MAX_DELAY);
    }
}
