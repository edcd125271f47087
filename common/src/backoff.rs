//! Exponential backoff with jitter, for whatever is tried again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Growing delays: each a multiple (twice, as a rule) of the one before up to a limit, shortened at random by up to a half, so that
/// those who failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
    factor: u32,
}

impl Backoff {
    /// Delays from `first` to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max, factor: 2 }
    }

    /// The delays between calls to a Kafka that does not answer: 50 ms to 500 ms, so that all goes on
    /// within 2 s of its return.
    pub fn for_kafka() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// The same delays, each that many times the one before.
    pub fn with_factor(self, factor: u32) -> Self {
        Self { factor, ..self }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.next.min(self.max);
        self.next = (full * self.factor).min(self.max);
        // RandomState has a new seed each time: enough of a die for jitter.
        let die = RandomState::new().hash_one(()) % 1_000;
        full.mul_f64(1.0 - die as f64 / 2_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_vary() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5)).with_factor(4);
        let delays: Vec<Duration> = (0..6).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= Duration::from_millis(50) && delays[0] <= Duration::from_millis(100));
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(5)));
        assert!(delays[4] >= Duration::from_millis(2_500), "{delays:?}");
    }
}
