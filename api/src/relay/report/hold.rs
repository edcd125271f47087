//! Letting nothing more be sent, before a turn is given back or taken again.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Report;

/// Time for what was sent by then: what lands after the end of the topic was read is there twice, and behind newer events
/// of its task. With a broker that answers it takes milliseconds.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked at.
const IN_FLIGHT_CHECK: Duration = Duration::from_millis(5);

impl Report {
    /// Lets nothing more be sent, and returns when it is on disk what became of all that was sent: while this process may
    /// publish, and unless that has been in doubt for long, as where Kafka is unreachable.
    pub(in crate::relay) async fn finish(&self) {
        let in_flight = async {
            while self.store.may_publish() && self.hold_lanes() {
                sleep(IN_FLIGHT_CHECK).await;
            }
        };
        let _ = timeout(IN_FLIGHT_TIMEOUT, in_flight).await;
    }

    /// Returns when all that was sent has its answer, or after a while.
    pub(in crate::relay) async fn finish_requests(&self) {
        let in_flight = async {
            while self.is_in_flight() {
                sleep(IN_FLIGHT_CHECK).await;
            }
        };
        let _ = timeout(IN_FLIGHT_TIMEOUT, in_flight).await;
    }

    /// Lets nothing more be sent. Returns whether a request has no answer yet.
    pub(in crate::relay) fn is_in_flight(&self) -> bool {
        let inner = self.inner();
        let windows = inner.lanes.values().filter_map(|lane| lane.window.as_ref());
        windows.fold(false, |is_in_flight, window| {
            window.hold(true);
            is_in_flight | window.is_in_flight()
        })
    }

    /// Lets nothing more be sent. Returns whether something was sent, not long ago, of which it is not on disk yet what
    /// became.
    fn hold_lanes(&self) -> bool {
        let inner = self.inner();
        let windows = inner.lanes.values().filter_map(|lane| lane.window.as_ref());
        windows.fold(false, |is_busy, window| {
            window.hold(true);
            is_busy | (window.is_busy() && window.in_doubt_for() < IN_FLIGHT_TIMEOUT)
        })
    }
}
