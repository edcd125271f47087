//! What the process counts, for Prometheus, under OpenTelemetry's names where it has them. docs/metrics.md lists them.

use actix_web::HttpResponse;
use actix_web::web::{Data, block};
use task_events::metrics::{CONTENT_TYPE, Text};
use task_events::version::version;
use task_events::{kafka, logging, services};

use super::state::State;
use crate::relay;

/// All metrics. Asks the disk for the age of the oldest event; where that hangs, its series is left out.
pub(super) async fn exposition(state: Data<State>) -> HttpResponse {
    let process = || {
        let mut text = Text::default();
        text.process(services::API, version());
        text
    };
    let Ok(mut text) = block(process).await else {
        return HttpResponse::ServiceUnavailable().body("no thread to look at the process\n");
    };
    state.requests.render(&mut text);
    text.series("task_api_shed_total", &[("what", "connection")], state.connections.refused());
    text.single(
        "http_server_open_connections",
        "gauge",
        "Connections of clients that are open.",
        state.connections.open(),
    );

    let outbox = *state.store.outbox().borrow();
    text.single("task_api_outbox_events", "gauge", "Events that wait for Kafka.", outbox.waiting);
    if let Some(age) = state.store.oldest_age().await {
        text.single(
            "task_api_outbox_oldest_event_age_seconds",
            "gauge",
            "Time for which the oldest event in the outbox has waited; 0 where none waits.",
            age.as_secs_f64(),
        );
    }
    const SENT: &str = "messaging_client_sent_messages_total";
    text.family(SENT, "counter", "Events that Kafka has acknowledged, before the process started, too, unless the tasks are in a database.");
    let sent = state.store.sent_events();
    text.series(SENT, &[("messaging_system", "kafka")], sent);
    text.single(
        "task_api_kafka_reachable",
        "gauge",
        "Whether the last call to Kafka succeeded.",
        u8::from(state.relay.borrow().reachable),
    );
    text.single(
        "task_api_store_commits_total",
        "counter",
        "Groups of changes that were put on disk, each with one fdatasync.",
        state.store.commits(),
    );
    text.histogram(
        "task_api_store_fsync_duration_seconds",
        "Time for the disk to take a group of changes: one write and one fdatasync.",
        &[],
        &state.store.appends(),
    );
    relay::metrics::render(&mut text);
    text.single(
        "task_api_store_writable",
        "gauge",
        "Whether the store takes changes.",
        u8::from(state.store.failure().is_none()),
    );
    text.single(
        "task_api_store_unreadable_values",
        "gauge",
        "Stored values that were found to be damaged since the process started.",
        state.store.unreadable_values(),
    );
    if let Some(age) = state.edge.as_ref().and_then(|edge| edge.access.as_ref()?.keys_age()) {
        text.single(
            "task_api_jwks_age_seconds",
            "gauge",
            "Time since a usable set of keys was last fetched from API_JWKS_URL; at first, since the start.",
            age.as_secs_f64(),
        );
    }
    kafka::render_metrics(&mut text);
    logging::render_metrics(&mut text);
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(text.finish())
}
