//! Liveness and readiness.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;

use super::State;

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    /// Why changes are refused, if they are.
    store_failure: Option<String>,
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
}

/// The process runs. Asks neither the store nor Kafka.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "ok"}))
}

/// The store takes changes. Kafka may be away: events wait in the outbox then.
pub(super) async fn ready(state: Data<State>) -> HttpResponse {
    let store_failure = state.store.failure();
    let relay = state.relay.borrow().clone();
    let body = Readiness {
        status: if store_failure.is_none() { "ready" } else { "not ready" },
        kafka: KafkaHealth { reachable: relay.reachable, waiting_for: relay.waiting_for },
        outbox: OutboxHealth { waiting: state.store.outbox().borrow().waiting },
        store_failure,
    };
    if body.store_failure.is_none() {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}
