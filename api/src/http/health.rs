//! Liveness and readiness.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Data;
use chrono::Utc;
use serde::Serialize;
use tokio::time::timeout;

use super::state::State;
use crate::store::Store;

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    /// Why changes are refused, if they are.
    store_failure: Option<String>,
    /// Stored values that were found to be damaged since the start: see the log.
    unreadable_values: usize,
    kafka: KafkaHealth,
    outbox: OutboxHealth,
}

#[derive(Serialize)]
struct KafkaHealth {
    reachable: bool,
    waiting_for: Option<String>,
}

#[derive(Serialize)]
struct OutboxHealth {
    waiting: u64,
    /// `null` where none waits, or the disk does not say in time.
    oldest_age_seconds: Option<f64>,
}

/// Time for the disk to tell the age of the oldest event: well within that of a probe or a scrape.
const AGE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the oldest event in the outbox has waited; zero where none waits, `None` where the disk does not
/// say in time.
pub(super) async fn oldest_age(store: &Store) -> Option<Duration> {
    if store.outbox().borrow().waiting == 0 {
        return Some(Duration::ZERO);
    }
    let oldest = timeout(AGE_TIMEOUT, store.outbox_after(0, 1)).await.ok()?.ok()?;
    let age = oldest.first().map(|oldest| (Utc::now() - oldest.event.occurred_at).num_milliseconds());
    Some(Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)))
}

/// The process runs. Asks neither the store nor Kafka.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "ok"}))
}

/// The store takes changes. Kafka may be away: events wait in the outbox then.
pub(super) async fn ready(state: Data<State>) -> HttpResponse {
    let store_failure = state.store.failure();
    let relay = state.relay.borrow().clone();
    let waiting = state.store.outbox().borrow().waiting;
    let oldest = oldest_age(&state.store).await.filter(|_| waiting > 0);
    let body = Readiness {
        status: if store_failure.is_none() { "ready" } else { "not ready" },
        kafka: KafkaHealth { reachable: relay.reachable, waiting_for: relay.waiting_for },
        outbox: OutboxHealth { waiting, oldest_age_seconds: oldest.map(|age| age.as_secs_f64()) },
        unreadable_values: state.store.unreadable_values(),
        store_failure,
    };
    if body.store_failure.is_none() {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}
