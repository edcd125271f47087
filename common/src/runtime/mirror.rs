//! Mirrors commits to Kafka's group coordinator, so that Kafka's own tools show the group and its lag.
//!
//! Best effort, at most once a second: the offsets topic is what counts, and nothing reads this back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Backoff, Shared};
use crate::kafka::KafkaError;

const EVERY: Duration = Duration::from_secs(1);

/// Mirrors once, for a group that stops: else its last second would show as lag until the next start.
pub(super) async fn last<H>(shared: &Shared<H>) {
    let config = &shared.config;
    let positions = shared.status.positions();
    if positions.is_empty() {
        return;
    }
    let commit = async {
        let mut coordinator = config.kafka.admin().coordinator(&config.group).await?;
        coordinator.commit(&config.topic, &positions).await
    };
    match timeout(EVERY, commit).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("{error}"),
        Err(_) => log::debug!("the coordinator of group {} did not answer in time", config.group),
    }
}

pub(super) async fn run<H>(shared: Arc<Shared<H>>) {
    let config = &shared.config;
    let mut mirrored = Vec::new();
    let mut coordinator = None;
    let mut backoff = Backoff::for_kafka();
    loop {
        sleep(EVERY).await;
        let positions = shared.status.positions();
        if positions == mirrored || positions.is_empty() {
            continue;
        }
        let commit = async {
            if coordinator.is_none() {
                coordinator = Some(config.kafka.admin().coordinator(&config.group).await?);
            }
            match coordinator.as_mut() {
                Some(coordinator) => coordinator.commit(&config.topic, &positions).await,
                None => Ok::<(), KafkaError>(()),
            }
        };
        match commit.await {
            Ok(()) => {
                mirrored = positions;
                backoff = Backoff::for_kafka();
            }
            Err(error) => {
                log::debug!("{error}");
                coordinator = None;
                sleep(backoff.next_delay()).await;
            }
        }
    }
}
