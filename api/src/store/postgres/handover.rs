//! Giving the relay's turn back, so that another replica publishes at once, and not when the lease has run out.
//!
//! # Invariants
//!
//! 1. *Nothing is in flight.* While a request to Kafka has no answer, the turn under which it was sent is not given back:
//!    it runs out, as after a kill. What lands after another replica has read the end of the topic is there twice, and
//!    behind newer events of its task.

use std::time::Duration;

use task_events::database::Session;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::shared::Shared;
use super::turn::{Held, LEASE};

/// Time for the relay to let a turn go that was lost. It does so as soon as it runs.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(1);

/// Who wants the turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// How many relays do.
    pub(super) relays: usize,
    /// When the lease has run out of a turn that was let go with something in flight.
    runs_out: Option<Instant>,
}

impl Wanted {
    /// One wants it less. What is in flight was sent under its turn, and has no answer.
    pub(super) fn let_go(&mut self, is_in_flight: bool) {
        self.relays = self.relays.saturating_sub(1);
        if is_in_flight {
            self.runs_out = Some(Instant::now() + LEASE);
        }
    }

    fn is_in_flight(&self) -> bool {
        self.runs_out.is_some_and(|runs_out| Instant::now() < runs_out)
    }
}

/// Returns when the relay has let go a turn that it has lost: only then it is known what is in flight.
pub(super) async fn let_go(wanted: &mut watch::Receiver<Wanted>) {
    let _ = timeout(LET_GO_TIMEOUT, wanted.changed()).await;
}

/// Gives the turn back, unless something is in flight.
pub(super) async fn give_back(
    shared: &Shared,
    session: &Session,
    held: Held,
    wanted: &watch::Receiver<Wanted>,
) {
    if wanted.borrow().is_in_flight() {
        log::warn!(
            "the relay's turn on the {} is not given back, for Kafka has not answered what was sent last: it ends with its lease, within {} s, and then another replica looks for that in the topic and goes on",
            shared.place,
            LEASE.as_secs()
        );
        return;
    }
    // Where it cannot be given back, it runs out.
    let _ = held.release(session).await;
}
