//! The calls into a service that are in progress, and for how long: a call that hangs shows here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Where a call of a service is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// Into its decoder.
    Intake,
    /// Into its handler.
    Handler,
}

/// The calls that are in progress: one of each stage at most.
#[derive(Debug, Default)]
pub(super) struct Activity {
    intake: Mutex<Call>,
    handler: Mutex<Call>,
}

/// What it is for, and since when.
type Call = Option<(&'static str, Instant)>;

impl Activity {
    pub(super) fn begin(&self, stage: Stage, what: &'static str) -> InProgress<'_> {
        let call = match stage {
            Stage::Intake => &self.intake,
            Stage::Handler => &self.handler,
        };
        set(call, Some((what, Instant::now())));
        InProgress(call)
    }

    /// A call that has not returned for that long.
    pub(super) fn hanging(&self, limit: Duration) -> Option<(&'static str, Duration)> {
        let calls = [&self.handler, &self.intake].into_iter();
        let current = calls.filter_map(|call| *call.lock().unwrap_or_else(PoisonError::into_inner));
        current.map(|(what, since)| (what, since.elapsed())).find(|(_, lasts)| *lasts >= limit)
    }
}

fn set(call: &Mutex<Call>, to: Call) {
    *call.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

pub(super) struct InProgress<'a>(&'a Mutex<Call>);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        set(self.0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_call_in_progress_hangs() {
        let activity = Activity::default();
        assert_eq!(activity.hanging(Duration::ZERO), None, "idle is progress");
        for (stage, what) in [(Stage::Handler, "flush"), (Stage::Intake, "lookup")] {
            let call = activity.begin(stage, what);
            assert_eq!(activity.hanging(Duration::from_secs(60)), None);
            assert_eq!(activity.hanging(Duration::ZERO).map(|(what, _)| what), Some(what));
            drop(call);
            assert_eq!(activity.hanging(Duration::ZERO), None);
        }
    }
}
