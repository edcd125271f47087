//! Whether Kafka was unreachable and is reachable again, as the calls of one process have found out together.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

/// How soon it is asked again while it is unreachable, and while it is not.
const RETRY_UNREACHABLE: Duration = Duration::from_millis(100);
const RETRY_REACHABLE: Duration = Duration::from_secs(1);
/// That it was unreachable counts for so long after it was last asked.
const OUTAGE_AGE: Duration = Duration::from_secs(3);

/// What the calls of one process have found out together.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// When Kafka last did not answer. Held by the one call that asks.
    away: Mutex<Option<Instant>>,
    /// How often it came back.
    returns: watch::Sender<u64>,
}

impl Presence {
    /// Changes whenever Kafka came back.
    pub(super) fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// Asks for whether Kafka answers, until it does after it did not. One call of the process asks, for all.
    pub(super) async fn ask_until_it_returns<A: Future<Output = bool>>(&self, answers: impl Fn() -> A) {
        let mut away = self.away.lock().await;
        loop {
            let asked = Instant::now();
            if answers().await {
                if away.take().is_some_and(|last| asked - last < OUTAGE_AGE) {
                    self.returns.send_modify(|times| *times += 1);
                    return;
                }
                sleep(RETRY_REACHABLE).await;
            } else {
                *away = Some(Instant::now());
                sleep(RETRY_UNREACHABLE).await;
            }
        }
    }
}
