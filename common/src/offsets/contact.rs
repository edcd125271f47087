//! Since when this process would have seen a record of another instance, had one been written.
//!
//! # Invariant
//!
//! *Silence counts only while this process listened.* A time in which it read nothing, for whatever reason (Kafka
//! hung, the machine or this process stopped), is no silence of others. Once such a pause was longer than the
//! lease's [`gap`], silence counts from its end; while it lasts, nothing is known of anybody, also where all that is
//! in the topic was read.

use std::time::Duration;

use tokio::time::Instant;

/// The bounds of [`gap`]: a fetch answers each half second, and a Kafka that is slow is not one that hangs.
const GAPS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(2_500));
/// The precision, upwards, to which pauses are remembered, which bounds their number.
const PAUSE_MS: u128 = 100;

/// For how long nothing may be read while silence counts against a lease. What is left of it is enough for a living
/// owner's next record, which comes after a third of the lease.
fn gap(lease: Duration) -> Duration {
    (lease / 2).clamp(GAPS.0, GAPS.1)
}

/// When the topic answered.
#[derive(Debug, Default)]
pub(super) struct Contact {
    first: Option<Instant>,
    last: Option<Instant>,
    /// The latest pauses and when they ended: each shorter than those before it.
    pauses: Vec<(Duration, Instant)>,
}

impl Contact {
    /// The topic answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        let pause = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        if pause > GAPS.0 {
            let pause_ms = pause.as_millis().div_ceil(PAUSE_MS).saturating_mul(PAUSE_MS);
            // Above the longest gap one is as good as another.
            let pause = Duration::from_millis(u64::try_from(pause_ms).unwrap_or(u64::MAX)).min(GAPS.1 * 2);
            self.pauses.retain(|(longer, _)| *longer > pause);
            self.pauses.push((pause, now));
        }
    }

    /// Whether it ever did.
    pub(super) fn was_made(&self) -> bool {
        self.first.is_some()
    }

    /// Since when it has answered without a pause that is too long for the lease. `None` if such a pause lasts, or if
    /// it never answered.
    pub(super) fn since(&self, lease: Duration, now: Instant) -> Option<Instant> {
        let gap = gap(lease);
        if now.saturating_duration_since(self.last?) > gap {
            return None;
        }
        let last_pause = self.pauses.iter().rfind(|(pause, _)| *pause > gap);
        last_pause.map(|(_, end)| *end).or(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of answers, in milliseconds after the start.
    fn contact(start: Instant, answers: impl IntoIterator<Item = u64>) -> Contact {
        let mut contact = Contact::default();
        answers.into_iter().for_each(|ms| contact.answered(start + Duration::from_millis(ms)));
        contact
    }

    #[test]
    fn silence_counts_from_the_end_of_a_pause_that_is_too_long_for_the_lease() {
        let start = Instant::now();
        let since = |answers: &[u64], lease_ms, now_ms| {
            let contact = contact(start, answers.iter().copied());
            let now = start + Duration::from_millis(now_ms);
            contact.since(Duration::from_millis(lease_ms), now).map(|since| (since - start).as_millis())
        };
        assert_eq!(since(&[], 2_000, 0), None, "never in contact");
        assert_eq!(since(&[0, 500, 1_000], 2_000, 2_000), Some(0));
        assert_eq!(since(&[0, 500, 1_000], 2_000, 2_001), None, "it lasts");
        assert_eq!(since(&[0, 500, 1_000], 10_000, 3_500), Some(0));
        assert_eq!(since(&[0, 500, 1_000], 10_000, 3_501), None, "it lasts");
        // 1.4 s are too long for 2 s, and not for 10 s.
        assert_eq!(since(&[0, 500, 1_900, 2_400], 2_000, 2_400), Some(1_900));
        assert_eq!(since(&[0, 500, 1_900, 2_400], 10_000, 2_400), Some(0));
        // A longer one before a shorter one, and after it.
        assert_eq!(since(&[0, 9_000, 10_400], 2_000, 10_400), Some(10_400));
        assert_eq!(since(&[0, 9_000, 10_400], 10_000, 10_400), Some(9_000));
        assert_eq!(since(&[0, 1_400, 9_000, 9_500], 2_000, 9_500), Some(9_000));
    }

    #[test]
    fn the_pauses_that_are_remembered_are_few() {
        let mut at = 0;
        let shorter_and_shorter = (0..10_000).map(|step: u64| {
            at += 20_000 - step;
            at
        });
        let contact = contact(Instant::now(), shorter_and_shorter);
        assert!(contact.pauses.len() <= 50, "{}", contact.pauses.len());
    }
}
