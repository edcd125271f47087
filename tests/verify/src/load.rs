//! Clients that create, change and complete tasks, and write down what they were answered.
//!
//! A client owns its tasks. Where a request is not answered, one in two is repeated under its idempotency
//! key until it is; after the others the client leaves the task alone, as it does not know how it stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use crate::dice::Dice;
use crate::history::{Answer, Kind, Request, Task, now};

/// Time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a request that was not answered.
const PAUSE: Duration = Duration::from_millis(25);

/// What the clients do.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// Where the API is.
    pub url: String,
    /// Clients, each with a connection.
    pub connections: usize,
    /// Requests a second, all together; none for as many as the API answers.
    pub rate: Option<u32>,
    /// Decides what is asked.
    pub seed: u64,
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Vec<Request>>,
}

struct Shared {
    config: LoadConfig,
    http: reqwest::Client,
    start: Instant,
    tickets: AtomicU64,
    /// Events of what was answered 2xx.
    events: AtomicU64,
    keep: bool,
}

impl Load {
    /// Starts the clients. `keep`: what they were answered is written down; else they only count.
    pub fn start(config: LoadConfig, keep: bool) -> Self {
        let connections = config.connections;
        let shared = Arc::new(Shared {
            config,
            http: harness::http(),
            start: Instant::now(),
            tickets: AtomicU64::new(0),
            events: AtomicU64::new(0),
            keep,
        });
        let stop = watch::Sender::new(false);
        let clients = (0..connections).map(|number| {
            let dice = Dice::new(shared.config.seed.wrapping_mul(1_000).wrapping_add(number as u64));
            Client { shared: Arc::clone(&shared), dice, stop: stop.subscribe(), history: Vec::new() }.run()
        });
        Self { clients: clients.collect(), shared, stop }
    }

    /// The events of what was answered 2xx so far.
    pub fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Lets each client finish its request, and returns what all were answered, in the order of sending.
    pub async fn finish(&mut self) -> Vec<Request> {
        self.stop.send_replace(true);
        let mut history = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            // A client that was aborted has nothing to tell.
            history.extend(client.unwrap_or_default());
        }
        history.sort_by_key(|request| request.sent);
        history
    }
}

struct Client {
    shared: Arc<Shared>,
    dice: Dice,
    stop: watch::Receiver<bool>,
    history: Vec<Request>,
}

impl Client {
    async fn run(mut self) -> Vec<Request> {
        let mut number = 0_u64;
        while !self.stopped() {
            number += 1;
            self.task(number).await;
        }
        self.history
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// One task's life: created, mostly changed, mostly completed. Ends early where it is unclear how the
    /// task stands.
    async fn task(&mut self, number: u64) -> Option<()> {
        let title = format!("task {number} of client {}", self.dice.between(0, 999_999));
        let task = self.operation(Kind::Create, None, Some(title.clone())).await?;
        for change in 0..self.dice.between(0, 2) {
            let title = format!("{title}, change {change}");
            self.operation(Kind::Retitle, Some(&task.id), Some(title)).await?;
        }
        match self.dice.between(0, 2) {
            0 => {}
            1 => drop(self.operation(Kind::PatchCompleted, Some(&task.id), None).await?),
            _ => drop(self.operation(Kind::Complete, Some(&task.id), None).await?),
        }
        Some(())
    }

    /// `None`: it is unclear whether it was done.
    async fn operation(&mut self, kind: Kind, task_id: Option<&str>, title: Option<String>) -> Option<Task> {
        let key = self.dice.percent(50).then(|| Uuid::new_v4().to_string());
        loop {
            self.pace().await;
            if self.stopped() {
                return None;
            }
            let request = self.request(kind, task_id, title.clone(), key.clone()).await;
            let done = request.done().cloned();
            if self.shared.keep {
                self.history.push(request);
            }
            if done.is_some() {
                self.shared.events.fetch_add(kind.events().len() as u64, Ordering::Relaxed);
                return done;
            }
            sleep(PAUSE).await;
            key.as_ref()?;
        }
    }

    async fn pace(&mut self) {
        let Some(rate) = self.shared.config.rate else { return };
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let due = self.shared.start + Duration::from_secs_f64(ticket as f64 / f64::from(rate));
        tokio::select! {
            () = sleep_until(due) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn request(
        &self,
        kind: Kind,
        task_id: Option<&str>,
        title: Option<String>,
        key: Option<String>,
    ) -> Request {
        let id = task_id.unwrap_or_default();
        let (method, path, body) = match kind {
            Kind::Create => (Method::POST, "/tasks".to_owned(), Some(json!({"title": title}))),
            Kind::Retitle => (Method::PATCH, format!("/tasks/{id}"), Some(json!({"title": title}))),
            Kind::PatchCompleted => {
                (Method::PATCH, format!("/tasks/{id}"), Some(json!({"status": "completed"})))
            }
            Kind::Complete => (Method::POST, format!("/tasks/{id}/complete"), None),
        };
        let correlation_id = Uuid::new_v4().to_string();
        let url = format!("{}{path}", self.shared.config.url);
        let mut call = self.shared.http.request(method, url).header("X-Correlation-ID", &correlation_id);
        if let Some(key) = &key {
            call = call.header("Idempotency-Key", key);
        }
        if let Some(body) = &body {
            call = call.json(body);
        }
        let sent = now();
        let answer = timeout(ANSWER_LIMIT, answer(call)).await;
        let answer = answer.unwrap_or_else(|_| Answer::None { why: "time-out".to_owned() });
        let ended = now();
        Request { kind, task_id: task_id.map(str::to_owned), title, key, correlation_id, sent, ended, answer }
    }
}

async fn answer(call: reqwest::RequestBuilder) -> Answer {
    let answered = async {
        let response = call.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.text().await?))
    };
    match answered.await {
        Err(error) => Answer::None { why: innermost(&error) },
        Ok((status, text)) if status.is_success() => match serde_json::from_str(&text) {
            Ok(task) => Answer::Done { task },
            Err(error) => Answer::None { why: format!("{status} and no task: {error}") },
        },
        Ok((status, _)) if status.is_server_error() => Answer::Failed { status: status.as_u16() },
        Ok((status, _)) => Answer::Refused { status: status.as_u16() },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
