//! The requests that were answered, counted by route and status: each worker counts its own, and a scrape adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use task_events::metrics::{Durations, Text};

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
    /// Of all workers: they are few, or nothing else matters.
    shed: Arc<AtomicU64>,
}

impl Default for Requests {
    fn default() -> Self {
        let own = Arc::default();
        Self { all: Arc::new(Mutex::new(vec![Arc::clone(&own)])), own, shed: Arc::default() }
    }
}

impl Clone for Requests {
    /// For another worker.
    fn clone(&self) -> Self {
        let own = Arc::default();
        lock(&self.all).push(Arc::clone(&own));
        Self { own, all: Arc::clone(&self.all), shed: Arc::clone(&self.shed) }
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

    /// One was refused because there was too much at once.
    pub(super) fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
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

    /// Adds them, and how many of them were refused because there was too much.
    pub(super) fn render(&self, text: &mut Text) {
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
        text.family(SHED, "counter", "What was refused with 503 because there was too much at once.");
        text.series(SHED, &[("what", "request")], self.shed.load(Ordering::Relaxed));
    }
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
