//! How many requests a second one caller may send, however many callers there are.
//!
//! A caller's bucket is a place in two tables of fixed size, by two keyed hashes of its name or address. A place holds
//! the time at which its bucket is full again (the generic cell rate algorithm). The fuller of the two decides, and both are
//! brought to what it is afterwards: a count-min sketch with conservative update.
//!
//! # Invariants
//!
//! 1. *Memory is fixed*: 1 MiB, whoever calls from however many addresses. Nothing is ever evicted.
//! 2. *Who stays below the rate alone is let through*, unless others use up both of its places: with a thousand callers
//!    that all exceed the rate, a chance of one in 4,000. The hashes have random keys, so that nobody can aim at others.
//! 3. *Nobody gets more than the rate*, whatever others do to its places; requests at the very same moment may be let through
//!    once for each worker.
//! 4. No lock: a request costs two hashes and two atomic changes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Places of a table.
const PLACES: usize = 64 * 1024;

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A caller that was recognised.
    Actor(&'a str),
    /// Any other, by its address.
    Address(IpAddr),
}

impl Key<'_> {
    /// By an address. Whoever has an IPv6 address has 2^64 of them: so by their network.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Address(IpAddr::V6(network.into()))
            }
            address => Self::Address(address),
        }
    }
}

/// Counts requests.
pub struct RateLimiter {
    /// Time that one request takes up.
    interval_ns: u64,
    /// Time that requests may be ahead.
    burst_ns: u64,
    since: Instant,
    tables: [(RandomState, Box<[AtomicU64]>); 2],
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RateLimiter(a request each {} ns)", self.interval_ns)
    }
}

impl RateLimiter {
    /// So many a second, and so many at once after a pause.
    pub fn new(per_second: NonZero<u32>, burst: NonZero<u32>) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_second.get());
        let table = || {
            let places = (0..PLACES).map(|_| AtomicU64::new(0));
            (RandomState::new(), places.collect::<Box<[_]>>())
        };
        Self {
            interval_ns,
            burst_ns: interval_ns.saturating_mul(u64::from(burst.get())),
            since: Instant::now(),
            tables: [table(), table()],
        }
    }

    /// Counts a request, and says whether it is let through. If not, there is one again within a second.
    pub fn admit(&self, key: Key<'_>) -> bool {
        self.admit_at(key, self.since.elapsed())
    }

    /// Whether the next request would not be let through. Counts nothing.
    pub fn is_used_up(&self, key: Key<'_>) -> bool {
        let (now, [one, two]) = (nanos(self.since.elapsed()), self.places(key));
        let (Some(one), Some(two)) = (one, two) else { return false };
        self.after(one.load(Ordering::Relaxed).min(two.load(Ordering::Relaxed)), now).is_none()
    }

    fn places(&self, key: Key<'_>) -> [Option<&AtomicU64>; 2] {
        self.tables.each_ref().map(|(hasher, places)| {
            let hash = usize::try_from(hasher.hash_one(key)).unwrap_or(0);
            places.get(hash % PLACES)
        })
    }

    /// When a bucket is full again once a request was taken from it, if it has one.
    fn after(&self, full_again: u64, now: u64) -> Option<u64> {
        let after = full_again.max(now).saturating_add(self.interval_ns);
        (after - now <= self.burst_ns).then_some(after)
    }

    fn admit_at(&self, key: Key<'_>, now: Duration) -> bool {
        let (now, [Some(one), Some(two)]) = (nanos(now), self.places(key)) else { return true };
        loop {
            let (first, second) = (one.load(Ordering::Relaxed), two.load(Ordering::Relaxed));
            // The fuller bucket decides: others have taken from the emptier one as well.
            let (place, value, other) = if first <= second { (one, first, two) } else { (two, second, one) };
            let Some(after) = self.after(value, now) else { return false };
            if place.compare_exchange_weak(value, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                other.fetch_max(after, Ordering::Relaxed);
                return true;
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    // Too many in 500 years.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, burst: u32) -> RateLimiter {
        RateLimiter::new(per_second.try_into().unwrap(), burst.try_into().unwrap())
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = limiter(10, 3);
        let sent = |at_ms: u64, count: usize| {
            let now = Duration::from_millis(at_ms);
            (0..count).filter(|_| limiter.admit_at(Key::Actor("alice"), now)).count()
        };
        assert_eq!(sent(0, 10), 3);
        assert_eq!(sent(99, 10), 0);
        assert_eq!(sent(100, 10), 1);
        assert_eq!(sent(350, 10), 2);
        // A pause gives no more than the burst.
        assert_eq!(sent(60_000, 10), 3);
        // Who is refused is not put off further.
        let refused: usize = (60_000..60_100).map(|at| sent(at, 10)).sum();
        assert_eq!((refused, sent(60_100, 10)), (0, 1));
        // Over a second under load: the rate.
        let over: usize = (70_000..71_000).map(|at| sent(at, 10)).sum();
        assert_eq!(over, 3 + 9);
    }

    #[test]
    fn places_that_others_share_give_nobody_more_than_the_rate() {
        for burst in [1, 5, 10] {
            let limiter = limiter(100, burst);
            let key = Key::Actor("alice");
            // Another caller has taken half a request from one of the places.
            let [one, _] = limiter.places(key);
            one.unwrap().store(5_000_000, Ordering::Relaxed);
            let micros = (0..1_000_000).step_by(100);
            let admitted = micros.filter(|at| limiter.admit_at(key, Duration::from_micros(*at))).count();
            assert!(admitted <= 100 + burst as usize, "{admitted} with a burst of {burst}");
            assert!(admitted >= 99, "{admitted} with a burst of {burst}");
        }
    }

    #[test]
    fn a_look_counts_nothing() {
        let limiter = limiter(1, 1);
        let key = Key::Actor("alice");
        assert!(!limiter.is_used_up(key) && !limiter.is_used_up(key));
        assert!(limiter.admit(key));
        assert!(limiter.is_used_up(key) && !limiter.admit(key));
    }

    #[test]
    fn callers_are_counted_apart_and_addresses_by_who_has_them() {
        let limiter = limiter(1, 1);
        let now = Duration::ZERO;
        let admit = |key| limiter.admit_at(key, now);
        let address = |text: &str| Key::of(text.parse().unwrap());
        assert!(admit(Key::Actor("192.0.2.1")) && admit(address("192.0.2.1")) && admit(address("192.0.2.2")));
        assert!(!admit(address("::ffff:192.0.2.1")), "the same as IPv4");
        assert!(admit(address("2001:db8::1")));
        assert!(!admit(address("2001:db8::ffff:0:2")), "in the same /64");
        assert!(admit(address("2001:db8:0:1::1")));
    }

    #[test]
    fn callers_that_exceed_the_rate_do_not_use_up_those_that_do_not() {
        let limiter = limiter(1, 1);
        for n in 0..1_000_u32 {
            for _ in 0..3 {
                limiter.admit_at(Key::Address(IpAddr::V4(n.into())), Duration::ZERO);
            }
        }
        let others = 1_000..11_000_u32;
        let refused =
            others.filter(|n| !limiter.admit_at(Key::Address(IpAddr::V4(n.to_be().into())), Duration::ZERO));
        // They come at the same moment, so that they fill places too: some 100 of the 10,000 find both taken.
        assert!(refused.count() < 200);
    }
}
