//! Liveness and readiness.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use task_events::version::COMMIT;

use super::state::State;

#[derive(Serialize)]
struct Liveness {
    status: &'static str,
    version: &'static str,
    /// The one that it was built from, where the build knows it.
    commit: Option<&'static str>,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    /// Why changes are refused, if they are.
    store_failure: Option<String>,
    /// Stored values that were found to be damaged since the start: see the log.
    unreadable_values: usize,
    /// That a file of callers, or the URL of their keys, is not used as it is now, if so.
    access_failure: Option<String>,
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

/// The process runs. Asks neither the store nor Kafka.
pub(super) async fn live() -> HttpResponse {
    let body = Liveness { status: "ok", version: env!("CARGO_PKG_VERSION"), commit: COMMIT };
    HttpResponse::Ok().json(body)
}

/// The store takes changes. Kafka may be away: events wait in the outbox then.
pub(super) async fn ready(state: Data<State>) -> HttpResponse {
    let store_failure = state.store.failure();
    let relay = state.relay.borrow().clone();
    let waiting = state.store.outbox().borrow().waiting;
    let oldest = state.store.oldest_age().await.filter(|_| waiting > 0);
    let body = Readiness {
        status: if store_failure.is_none() { "ready" } else { "not ready" },
        kafka: KafkaHealth {
            reachable: relay.reachable,
            waiting_for: relay.waiting_for.or_else(|| state.store.publishing_failure()),
        },
        outbox: OutboxHealth { waiting, oldest_age_seconds: oldest.map(|age| age.as_secs_f64()) },
        unreadable_values: state.store.unreadable_values(),
        access_failure: state.edge.as_ref().and_then(|edge| edge.access.as_ref()?.failure()),
        store_failure,
    };
    if body.store_failure.is_none() {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}
