//! What the process counts, for Prometheus, under OpenTelemetry's names where it has them. docs/metrics.md lists them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, block};
use task_events::metrics::{CONTENT_TYPE, Durations, Text};
use task_events::{kafka, logging};

use super::health;
use super::state::State;
use crate::relay;

/// The pattern of a resource, as a label. Each resource has it among its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route(pub(super) &'static str);

/// Method, route and status. Few: clients choose none of the three freely.
type Key = (&'static str, &'static str, u16);
type Counts = BTreeMap<Key, Durations>;

/// Requests that were answered. Each worker counts its own, so that none waits for another.
#[derive(Debug)]
pub(super) struct Requests {
    own: Arc<Mutex<Counts>>,
    all: Arc<Mutex<Vec<Arc<Mutex<Counts>>>>>,
}

impl Default for Requests {
    fn default() -> Self {
        let own = Arc::default();
        Self { all: Arc::new(Mutex::new(vec![Arc::clone(&own)])), own }
    }
}

impl Clone for Requests {
    /// For another worker.
    fn clone(&self) -> Self {
        let own = Arc::default();
        lock(&self.all).push(Arc::clone(&own));
        Self { own, all: Arc::clone(&self.all) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    /// The route is that of the resource, if there is one.
    pub(super) fn answered(&self, method: &Method, route: Option<Route>, status: StatusCode, took: Duration) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "_OTHER",
        };
        let key = (method, route.map_or("", |Route(pattern)| pattern), status.as_u16());
        lock(&self.own).entry(key).or_default().record(took);
    }

    /// The sums over all workers.
    fn sums(&self) -> Counts {
        let mut sums = Counts::new();
        for counts in lock(&self.all).iter() {
            for (key, durations) in lock(counts).iter() {
                sums.entry(*key).or_default().add(durations);
            }
        }
        sums
    }

    fn render(&self, text: &mut Text) {
        const NAME: &str = "http_server_request_duration_seconds";
        let all = self.sums();
        text.family(NAME, "histogram", "Time to answer a request, by route and status.");
        for ((method, route, status), durations) in all.iter() {
            let status = status.to_string();
            let labels = [
                ("http_request_method", *method),
                ("http_route", *route),
                ("http_response_status_code", status.as_str()),
            ];
            text.durations(NAME, &labels, durations);
        }
        const SHED: &str = "task_api_shed_total";
        text.family(
            SHED,
            "counter",
            "What was refused with 503: too much at once, or a store that takes no changes.",
        );
        let unavailable = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        let shed = all.iter().filter(|((_, route, status), _)| *status == unavailable && *route != "/readyz");
        let shed: u64 = shed.map(|(_, durations)| durations.count()).sum();
        text.series(SHED, &[("what", "request")], shed);
    }
}

/// All metrics. Asks the disk for the age of the oldest event; where that hangs, its series is left out.
pub(super) async fn exposition(state: Data<State>) -> HttpResponse {
    let process = || {
        let mut text = Text::default();
        text.process("task-api", env!("CARGO_PKG_VERSION"));
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
    if let Some(age) = health::oldest_age(&state.store).await {
        text.single(
            "task_api_outbox_oldest_event_age_seconds",
            "gauge",
            "Time for which the oldest event in the outbox has waited; 0 where none waits.",
            age.as_secs_f64(),
        );
    }
    const SENT: &str = "messaging_client_sent_messages_total";
    text.family(SENT, "counter", "Events that Kafka has acknowledged, also before the process started.");
    let sent = outbox.last_seq.saturating_sub(outbox.waiting);
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
    kafka::render_metrics(&mut text);
    logging::render_metrics(&mut text);
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(text.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_request_in_all_buckets_that_it_fits() {
        let requests = Requests::default();
        for millis in [1, 5, 6, 20_000] {
            // By any worker.
            let worker = requests.clone();
            let route = Some(Route("/tasks"));
            worker.answered(&Method::POST, route, StatusCode::CREATED, Duration::from_millis(millis));
        }
        let mut text = Text::default();
        requests.render(&mut text);
        let text = text.finish();
        for (le, count) in [("0.0005", 0), ("0.001", 1), ("0.005", 2), ("0.01", 3), ("10", 3), ("+Inf", 4)] {
            let labels =
                "http_request_method=\"POST\",http_route=\"/tasks\",http_response_status_code=\"201\"";
            let line =
                format!("http_server_request_duration_seconds_bucket{{{labels},le=\"{le}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
