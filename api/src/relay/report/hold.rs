//! Letting nothing more be sent, before a turn is given back.

use std::time::Duration;

use super::Report;

impl Report {
    /// Lets nothing more be sent. Returns whether something was sent, in the last so much time, of which it is not on disk
    /// yet what became.
    pub(in crate::relay) fn hold_lanes(&self, limit: Duration) -> bool {
        let inner = self.inner();
        let windows = inner.lanes.values().filter_map(|lane| lane.window.as_ref());
        windows.fold(false, |is_busy, window| {
            window.hold(true);
            is_busy | (window.is_busy() && window.in_doubt_for() < limit)
        })
    }
}
