//! A receiver of webhooks in this process, and instances that send to it.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use consumers::metrics::OwnMetrics;
use consumers::webhook::{self, Config};
use serde_json::Value;
use task_events::metrics::Text;
use task_events::networks::Networks;
use task_events::schemas::EventReader;
use tokio::sync::watch;

use super::{Running, World};

/// A webhook that came.
#[derive(Debug, Clone)]
pub struct Came {
    pub id: String,
    pub title: String,
    pub kind: String,
    pub at: Instant,
    pub signatures: usize,
}

/// Answers by the title of the task; 204 where nothing is set.
#[derive(Default)]
pub struct Receiver {
    answers: Mutex<HashMap<String, (u16, Option<&'static str>)>>,
    came: Mutex<Vec<Came>>,
    /// Titles that are answered once they are released.
    held: watch::Sender<HashSet<String>>,
}

impl Receiver {
    /// Its URL.
    pub async fn start() -> (Arc<Self>, String) {
        let receiver = Arc::new(Self::default());
        let shared = Arc::clone(&receiver);
        let server = HttpServer::new(move || {
            App::new().app_data(web::Data::from(Arc::clone(&shared))).route("/hook", web::post().to(take))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
        let address = server.addrs()[0];
        tokio::spawn(server.run());
        (receiver, format!("http://{address}/hook"))
    }

    pub fn answer(&self, title: &str, status: u16, retry_after: Option<&'static str>) {
        self.answers.lock().unwrap().insert(title.to_owned(), (status, retry_after));
    }

    /// Answers nothing of these titles until all are released.
    pub fn hold(&self, titles: impl IntoIterator<Item = String>) {
        self.held.send_modify(|held| held.extend(titles));
    }

    pub fn release(&self) {
        self.held.send_modify(HashSet::clear);
    }

    pub fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    pub fn count(&self, title: &str) -> usize {
        self.came().iter().filter(|came| came.title == title).count()
    }
}

async fn take(receiver: web::Data<Receiver>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
    let json: Value = serde_json::from_slice(&body).unwrap();
    assert!(header("webhook-timestamp").parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(header("content-type"), "application/json");
    let signature = header("webhook-signature");
    assert!(signature.split(' ').all(|one| one.starts_with("v1,")));
    let came = Came {
        id: header("webhook-id"),
        title: json["data"]["title"].as_str().unwrap().to_owned(),
        kind: json["type"].as_str().unwrap().to_owned(),
        at: Instant::now(),
        signatures: signature.split(' ').count(),
    };
    let answer = receiver.answers.lock().unwrap().get(&came.title).copied();
    let title = came.title.clone();
    receiver.came.lock().unwrap().push(came);
    receiver.held.subscribe().wait_for(|held| !held.contains(&title)).await.unwrap();
    let (status, retry_after) = answer.unwrap_or((204, None));
    let mut response = HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap());
    if let Some(seconds) = retry_after {
        response.insert_header(("retry-after", seconds));
    }
    response.finish()
}

pub async fn notifier(world: &World, group: &str, url: &str, tries: u32) -> Running {
    counted_notifier(world, group, url, tries, None).await.0
}

/// The same, and what it counts. A CA is for https.
pub async fn counted_notifier(
    world: &World,
    group: &str,
    url: &str,
    tries: u32,
    ca: Option<PathBuf>,
) -> (Running, OwnMetrics) {
    instance(world, group, group, url, tries, ca).await
}

/// The same, with a state folder of its own.
pub async fn instance(
    world: &World,
    group: &str,
    name: &str,
    url: &str,
    tries: u32,
    ca: Option<PathBuf>,
) -> (Running, OwnMetrics) {
    let state = world.state(name);
    let secrets = state.join("secrets");
    std::fs::write(
        &secrets,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
    )
    .unwrap();
    let config = Config {
        url: url.parse().unwrap(),
        ca,
        allowed: Networks::parse("127.0.0.0/8,::1").unwrap(),
        tries: NonZero::new(tries).unwrap(),
    };
    let open = move || webhook::open(&state, config, &secrets, EventReader::json());
    let opened = tokio::task::spawn_blocking(open).await.unwrap().unwrap();
    (world.run_as(group, name, opened.service), opened.metrics)
}

/// The value of a series.
pub fn counted(metrics: &OwnMetrics, series: &str) -> u64 {
    let mut text = Text::default();
    metrics(&mut text);
    let text = text.finish();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}
