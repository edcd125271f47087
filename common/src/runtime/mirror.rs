//! Mirrors commits to Kafka's group coordinator, so that Kafka's own tools show the group and its lag.
//!
//! Only positions whose commit was acknowledged. Best effort, at most once a second: the offsets topic is what
//! counts, and nothing reads this back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::shared::Shared;
use crate::kafka::{Coordinator, KafkaError};

const EVERY: Duration = Duration::from_secs(1);
/// Positions that do not change are written again after this time, since the coordinator forgets those of
/// an idle group.
const REFRESH: Duration = Duration::from_secs(60 * 60);
/// Time for the last of a group that stops.
pub(super) const LAST: Duration = Duration::from_secs(1);

/// Mirrors until the work has stopped, and then what came last: else it would show as lag until the next
/// start.
pub(super) async fn run<S>(shared: Arc<Shared<S>>, mut stopped: oneshot::Receiver<()>) {
    let mut mirror = Mirror::default();
    loop {
        let is_last = timeout(EVERY, &mut stopped).await.is_ok();
        if let Err(error) = mirror.commit(&shared).await {
            log::debug!("{error}");
        }
        if is_last {
            return;
        }
    }
}

#[derive(Default)]
struct Mirror {
    coordinator: Option<Coordinator>,
    positions: Vec<(i32, i64)>,
    /// When they were last written.
    written: Option<Instant>,
}

impl Mirror {
    /// Tells the coordinator where the group is, if that is news.
    async fn commit<S>(&mut self, shared: &Shared<S>) -> Result<(), KafkaError> {
        let (config, positions) = (&shared.config, shared.acknowledged.positions());
        let is_recent = self.written.is_some_and(|written| written.elapsed() < REFRESH);
        if positions.is_empty() || positions == self.positions && is_recent {
            return Ok(());
        }
        let mut coordinator = match self.coordinator.take() {
            Some(known) => known,
            None => config.kafka.admin().coordinator(&config.group).await?,
        };
        coordinator.commit(&config.topic, &positions).await?;
        self.written = Some(Instant::now());
        (self.coordinator, self.positions) = (Some(coordinator), positions);
        Ok(())
    }
}
