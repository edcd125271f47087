//! The turn while it is used. However it is let go, from then on nothing more is sent, and a turn with a request in flight
//! is not given back.

use std::pin::pin;

use super::report::Report;
use crate::store::Turn;

struct HeldTurn<'a> {
    turn: Turn,
    report: &'a Report,
}

impl Drop for HeldTurn<'_> {
    fn drop(&mut self) {
        if self.report.is_in_flight() {
            self.turn.leave_in_flight();
        }
    }
}

/// Publishes until the turn is lost, and then waits for the answers to what was sent, for a while: the next turn of this
/// process looks for it in the topic, and could do so before it has landed.
pub(super) async fn while_held(turn: Turn, report: &Report, publishing: impl Future<Output = ()>) {
    let mut held = HeldTurn { turn, report };
    // Dropped before the turn is let go, where this is.
    let mut publishing = pin!(publishing);
    tokio::select! {
        biased;
        () = held.turn.lost() => {}
        () = &mut publishing => {}
    }
    drop(held);
    report.finish_requests().await;
}
