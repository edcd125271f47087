//! The relay: publishes the outbox to Kafka, each partition on its own.
//!
//! | file | what |
//! | --- | --- |
//! | `dispatcher` | reads the outbox in order and fills the windows; watches the topic |
//! | `held_turn` | how the turn to publish is let go |
//! | `window` | the events of one partition that are pending |
//! | `lane` | sends the events of one window, one request in flight |
//! | `batch_limit` | how large a request may be |
//! | `pace` | when the next request is due |
//! | `reconcile` | finds out which pending events are in the topic already |
//! | `report`, `metrics` | readiness and log lines; metrics |
//!
//! # Invariants
//!
//! 1. *Order.* Events of a partition are sent in the order of their sequence numbers, one request at a
//!    time: a second one in flight could land although the first failed. Another partition count is used
//!    only when everything that was sent by the old one is acknowledged.
//! 2. *Nothing is sent blindly twice.* After a start, and after any failure that leaves it unclear whether
//!    what was sent has landed, the topic is read up to the end of the leader's log ([`reconcile`]), and what
//!    is there leaves the outbox.
//! 3. *A position before a produce.* A partition's position is on disk before the first event is sent to
//!    it, and moves with the events that leave the outbox: whatever was sent is at or after it.
//! 4. *A partition that is down holds up only itself.* The others have windows, connections, timeouts and
//!    backoff of their own.
//! 5. *Few requests under load, no wait without* ([`pace`]). What was acknowledged leaves the outbox while the next
//!    request is in flight; where that fails, it is looked for in the topic.
//! 6. *One publisher.* Where replicas share the outbox, only the one that has the turn publishes, and it sends nothing
//!    after its lease ([`Store::turn`]). A new turn begins as a start does. One is given back, and taken again by this
//!    process after it was lost, with nothing in flight; where a request stays without an answer, its lease runs out.
//! 7. *Bounded.* Memory is bounded by the windows; no event is read again and again while it waits.

mod batch_limit;
mod dispatcher;
mod error;
mod held_turn;
mod lane;
pub mod metrics;
mod pace;
mod reconcile;
mod report;
mod window;

use std::sync::Arc;
use std::time::Duration;

use task_events::kafka::Kafka;
use task_events::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::store::Store;
use dispatcher::Dispatcher;
use report::Report;

pub use dispatcher::WINDOW;
pub use reconcile::LANDING_TIME;
pub use report::RelayState;

/// Time to publish what waits when the process stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The same where other replicas may publish it.
const HANDOVER_TIMEOUT: Duration = Duration::from_millis(500);

/// The relay. One for a store.
#[derive(Debug)]
pub struct Relay {
    dispatcher: Dispatcher,
    store: Store,
    report: Arc<Report>,
}

impl Relay {
    /// A relay from the store to the topic.
    pub fn new(store: Store, kafka: Kafka, topic: &str) -> Self {
        let kafka = kafka.with_missing_topic_hint("create it with `taskctl topics create`");
        let report = Arc::new(Report::new(store.clone(), topic));
        let dispatcher =
            Dispatcher { store: store.clone(), kafka, topic: topic.to_owned(), report: Arc::clone(&report) };
        Self { dispatcher, store, report }
    }

    /// The state of the relay: whether Kafka answers, and what is pending.
    pub fn state(&self) -> watch::Receiver<RelayState> {
        self.report.state()
    }

    /// Publishes until a stop is asked for, then what waits, for [`DRAIN_TIMEOUT`] at most. Logs how many
    /// events are left.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.dispatcher.run() => {}
            () = self.report.run() => {}
            () = self.drained(&shutdown) => {}
        }
        let waiting = self.store.outbox().borrow().waiting;
        match waiting {
            0 => log::info!("relay stopped: all events are delivered"),
            left if self.store.is_shared() => {
                log::info!(
                    "relay stopped: {left} events wait in the outbox; the replica that has the turn delivers them"
                );
            }
            left => log::warn!(
                "relay stopped: {left} events wait in the outbox and are delivered after the next start"
            ),
        }
    }

    /// Ends when a stop was asked for and nothing waits, or [`DRAIN_TIMEOUT`] later.
    async fn drained(&self, shutdown: &Shutdown) {
        shutdown.requested().await;
        let mut outbox = self.store.outbox();
        if self.store.is_shared() {
            // Another replica goes on at once; without one, this process's next start does.
            if !self.store.may_publish() {
                return;
            }
            let _ = timeout(HANDOVER_TIMEOUT, outbox.wait_for(|outbox| outbox.waiting == 0)).await;
            self.report.finish().await;
            return;
        }
        let _ = timeout(DRAIN_TIMEOUT, outbox.wait_for(|outbox| outbox.waiting == 0)).await;
    }
}
