//! How long something took: counts by upper bound, as a histogram of Prometheus.
//!
//! [`Durations`] is plain, for one thread; [`Histogram`] is shared: recording is two atomic additions, and nobody
//! waits for anybody. A scrape that falls between the two sees one of them a moment early.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds, each with its text in seconds. What is measured here ends in less than 5 ms as a
/// rule (a request, an fdatasync, a produce), and in 10 s at the latest or not at all.
pub(super) const BOUNDS: [(u64, &str); 16] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];

/// The buckets, the last one for what is beyond all bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

fn bucket(took: Duration) -> usize {
    BOUNDS.partition_point(|(bound, _)| Duration::from_micros(*bound) < took)
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// Durations that one thread counts.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// For each bucket, those that do not fit the one before.
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Durations {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        if let Some(count) = self.buckets.get_mut(bucket(took)) {
            *count += 1;
        }
        self.nanos = self.nanos.saturating_add(nanos(took));
    }

    /// Counts those of another thread as well.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long all of them took, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos).as_secs_f64()
    }

    /// For each bound, how many fit it.
    pub(super) fn up_to_bounds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut up_to = 0;
        BOUNDS.iter().zip(self.buckets).map(move |((_, text), count)| {
            up_to += count;
            (*text, up_to)
        })
    }
}

/// Durations that several threads count.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        if let Some(count) = self.buckets.get(bucket(took)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn durations(&self) -> Durations {
        let mut durations = Durations { nanos: self.nanos.load(Ordering::Relaxed), ..Durations::default() };
        for (count, shared) in durations.buckets.iter_mut().zip(&self.buckets) {
            *count = shared.load(Ordering::Relaxed);
        }
        durations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_what_is_as_long() {
        for (number, (micros, text)) in BOUNDS.iter().enumerate() {
            let bound = Duration::from_micros(*micros);
            assert_eq!(bucket(bound), number);
            assert_eq!(bucket(bound + Duration::from_nanos(1)), number + 1);
            assert_eq!(text.parse::<f64>().unwrap(), bound.as_secs_f64());
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn what_is_shared_counts_as_what_is_not() {
        let (histogram, mut durations) = (Histogram::default(), Durations::default());
        for micros in [0, 100, 101, 5_000, 11_000_000] {
            histogram.record(Duration::from_micros(micros));
            durations.record(Duration::from_micros(micros));
        }
        for counted in [histogram.durations(), durations] {
            assert_eq!((counted.count(), counted.seconds()), (5, 11.005_201));
            let up_to: Vec<u64> = counted.up_to_bounds().map(|(_, count)| count).collect();
            assert_eq!(up_to, [2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
        }
    }
}
