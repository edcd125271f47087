//! The lease of an ownership as a handler sees it that does its work later than it takes it.
//!
//! The process may have been stopped for an hour between any two pieces of work, and another instance may have done the
//! next: so each waits for [`Lease::valid`] before it begins.

use tokio::sync::watch;
use tokio::time::Instant;

/// Until when the partition is this instance's, unless it is renewed.
#[derive(Debug, Clone)]
pub struct Lease(watch::Receiver<Instant>);

impl Lease {
    pub(super) fn new(until: watch::Receiver<Instant>) -> Self {
        Self(until)
    }

    /// Whether it is valid now.
    pub fn is_valid(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// Returns at once while the lease is valid, otherwise when it is renewed; never where it is lost.
    pub async fn valid(&self) {
        let mut until = self.0.clone();
        if until.wait_for(|until| Instant::now() < *until).await.is_err() {
            // The ownership has ended.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_a_renewal_and_for_ever_once_the_lease_is_lost() {
        const MOMENT: Duration = Duration::from_secs(1);
        let (renewals, until) = watch::channel(Instant::now() + MOMENT);
        let lease = Lease::new(until);
        lease.valid().await;
        tokio::time::advance(MOMENT).await;
        assert!(timeout(MOMENT, lease.valid()).await.is_err(), "it ran out");
        renewals.send_replace(Instant::now() + MOMENT);
        lease.valid().await;
        tokio::time::advance(MOMENT).await;
        drop(renewals);
        assert!(timeout(MOMENT, lease.valid()).await.is_err(), "it was lost");
    }
}
