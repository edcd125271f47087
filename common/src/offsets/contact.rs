//! Since when this process would have seen a record of another instance, had one been written.
//!
//! # Invariant
//!
//! 1. *Silence counts only while this process listened.* A time in which it read nothing, for whatever reason (Kafka
//!    hung, the machine or this process stopped), is no silence of others. While such a pause is longer than the lease's
//!    [`gap`], nothing is known of anybody, also where all that is in the topic was read; once it is over, who lives has
//!    the time that is [`left`] for its next record.
//! 2. *Who is dead is replaced, however seldom answers come*: what is left after a pause ends before the next one that
//!    counts.

use std::time::Duration;

use tokio::time::Instant;

/// The least [`gap`]: a fetch answers each half second.
const MIN_GAP: Duration = Duration::from_secs(1);
/// What is [`left`] of a lease as short as that, or shorter.
const MIN_LEFT: Duration = Duration::from_millis(900);
/// Pauses that are remembered.
const MAX_PAUSES: usize = 32;

/// For how long nothing may be read while silence counts against a lease. What is left of it is enough for a living
/// owner's next record, which comes after a third of the lease.
fn gap(lease: Duration) -> Duration {
    (lease / 2).max(MIN_GAP)
}

/// How much of the lease is left at the end of a longer pause: more than the third after which a record comes, and less
/// than a [`gap`].
fn left(lease: Duration) -> Duration {
    (lease * 2 / 5).max(lease.min(MIN_LEFT))
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
        if pause > MIN_GAP {
            self.pauses.retain(|(longer, _)| *longer > pause);
            let is_full = self.pauses.len() >= MAX_PAUSES;
            match self.pauses.last_mut() {
                // The shortest two become one that is as long as the longer and ends with the later.
                Some((_, end)) if is_full => *end = now,
                _ => self.pauses.push((pause, now)),
            }
        }
    }

    /// Whether it ever did.
    pub(super) fn was_made(&self) -> bool {
        self.first.is_some()
    }

    /// From when on silence counts against the lease. `None` while a pause lasts that is too long for it, or if nothing was
    /// ever answered.
    pub(super) fn since(&self, lease: Duration, now: Instant) -> Option<Instant> {
        let gap = gap(lease);
        if now.saturating_duration_since(self.last?) > gap {
            return None;
        }
        let last_pause = self.pauses.iter().rfind(|(pause, _)| *pause > gap);
        let from = last_pause.map(|(_, end)| end.checked_sub(lease - left(lease)).unwrap_or(*end));
        from.max(self.first)
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
        assert_eq!(since(&[0, 500, 1_000], 10_000, 6_000), Some(0));
        assert_eq!(since(&[0, 500, 1_000], 10_000, 6_001), None, "it lasts");
        // 1.4 s are too long for 2 s, of which 0.9 s are left then, and not for 10 s.
        assert_eq!(since(&[0, 500, 1_900, 2_400], 2_000, 2_400), Some(800));
        assert_eq!(since(&[0, 500, 1_900, 2_400], 10_000, 2_400), Some(0));
        // A longer one before a shorter one, and after it.
        assert_eq!(since(&[0, 9_000, 10_400], 2_000, 10_400), Some(9_300));
        assert_eq!(since(&[0, 9_000, 10_400], 10_000, 10_400), Some(3_000));
        assert_eq!(since(&[0, 1_400, 9_000, 9_500], 2_000, 9_500), Some(7_900));
        // No silence is older than the first answer.
        assert_eq!(since(&[0, 1_050], 2_000, 1_050), Some(0));
    }

    #[test]
    fn who_is_dead_is_known_to_be_however_seldom_answers_come_and_who_lives_has_time_for_a_record() {
        let start = Instant::now();
        for lease in [300, 900, 1_000, 1_500, 2_000, 3_000, 10_000, 60_000, 100_000, 600_000]
            .map(Duration::from_millis)
        {
            let every = gap(lease) + Duration::from_millis(200);
            let mut contact = Contact::default();
            (0..20).for_each(|answer| contact.answered(start + every * answer));
            let last = start + every * 19;
            assert!(contact.since(lease, last).unwrap() + lease > last + lease / 3, "{lease:?}");
            let before_the_next = last + gap(lease);
            let is_over = contact.since(lease, before_the_next).unwrap() + lease <= before_the_next;
            assert!(is_over, "{lease:?}");
        }
    }

    #[test]
    fn the_pauses_that_are_remembered_are_few() {
        let mut at = 0;
        let shorter_and_shorter = (0..10_000).map(|step: u64| {
            at += 20_000 - step;
            at
        });
        let contact = contact(Instant::now(), shorter_and_shorter);
        assert!(contact.pauses.len() <= MAX_PAUSES, "{}", contact.pauses.len());
    }
}
