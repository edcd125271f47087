//! Clients that create and change tasks, and write down what was answered.

use crate::api::id_of;
use crate::history::Change;
use crate::http;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How long one request is repeated. The API may be down for a while, and so may the machine be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// What the clients were answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// The changes that were answered 2xx; those of one task in their order.
    pub changes: Vec<Change>,
    /// Answers of 500 and above.
    pub failures: usize,
    /// Requests without an answer: the connection was refused, or broke.
    pub unanswered: usize,
    /// From the first request to the last answer.
    pub took: Duration,
}

/// Requests under way.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Answers>,
    start: Instant,
}

struct Shared {
    /// Sets the keys of this load apart from those of another one.
    id: Uuid,
    url: String,
    http: reqwest::Client,
    tasks: usize,
    started: AtomicUsize,
    created: AtomicUsize,
    /// Time between two creations, all clients together.
    pace: Option<Duration>,
    start: Instant,
}

impl Load {
    /// Creates that many tasks as fast as the API answers, over that many connections, and changes some of
    /// them. Each request is repeated until it is answered 2xx, under an idempotency key, so that it is
    /// done once.
    pub fn at_full_speed(url: &str, connections: usize, tasks: usize) -> Self {
        Self::start(url, connections, tasks, None)
    }

    /// The same at no more than `rate` creations a second.
    pub fn at_rate(url: &str, connections: usize, tasks: usize, rate: u32) -> Self {
        Self::start(url, connections, tasks, Some(Duration::from_secs(1) / rate))
    }

    fn start(url: &str, connections: usize, tasks: usize, pace: Option<Duration>) -> Self {
        let start = Instant::now();
        let shared = Arc::new(Shared {
            id: Uuid::new_v4(),
            url: url.to_owned(),
            http: http(),
            tasks,
            started: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            pace,
            start,
        });
        let clients = (0..connections).map(|_| Arc::clone(&shared).client()).collect();
        Self { shared, clients, start }
    }

    /// Returns when that many tasks have been created.
    pub async fn reached(&mut self, tasks: usize) {
        while self.created() < tasks {
            // A client that panicked will never get there.
            assert!(!self.clients.is_empty(), "the clients have ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many tasks have been created so far.
    pub fn created(&self) -> usize {
        self.shared.created.load(Ordering::Relaxed)
    }

    /// Returns when all is done.
    pub async fn finish(mut self) -> Answers {
        let mut all = Answers::default();
        while let Some(answers) = self.clients.join_next().await {
            let answers = answers.expect("a client that does not panic");
            all.changes.extend(answers.changes);
            all.failures += answers.failures;
            all.unanswered += answers.unanswered;
        }
        all.took = self.start.elapsed();
        all
    }
}

impl Shared {
    async fn client(self: Arc<Self>) -> Answers {
        let mut answers = Answers::default();
        loop {
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            if number >= self.tasks {
                return answers;
            }
            if let (Some(pace), Ok(number)) = (self.pace, u32::try_from(number)) {
                tokio::time::sleep_until((self.start + pace * number).into()).await;
            }
            self.task(number, &mut answers).await;
            self.created.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn task(&self, number: usize, answers: &mut Answers) {
        let title = format!("task {number}");
        let key = |verb: &str| format!("{verb} {number} of {}", self.id);
        let body = json!({"title": title});
        let task = self.send(Method::POST, "/tasks", key("create"), Some(body), answers).await;
        answers.changes.push(Change::new("task.created", &task));
        let path = format!("/tasks/{}", id_of(&task));
        if number.is_multiple_of(10) {
            let body = json!({"title": format!("{title}, changed"), "status": "in_progress"});
            let task = self.send(Method::PATCH, &path, key("change"), Some(body), answers).await;
            answers.changes.push(Change::new("task.updated", &task));
            let path = format!("{path}/complete");
            let task = self.send(Method::POST, &path, key("complete"), None, answers).await;
            answers.changes.push(Change::new("task.completed", &task));
        } else if number % 10 == 5 {
            let body = json!({"status": "completed"});
            let task = self.send(Method::PATCH, &path, key("complete"), Some(body), answers).await;
            // Two events of one transaction.
            answers.changes.push(Change::new("task.updated", &task));
            answers.changes.push(Change::new("task.completed", &task));
        }
    }

    /// The task in the answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        key: String,
        body: Option<Value>,
        answers: &mut Answers,
    ) -> Value {
        let start = Instant::now();
        loop {
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
            request = request.header("Idempotency-Key", &key);
            if let Some(body) = &body {
                request = request.json(body);
            }
            match answer(request).await {
                Err(_) => answers.unanswered += 1,
                Ok((status, text)) if status.is_success() => {
                    return serde_json::from_str(&text).expect("a task");
                }
                Ok((status, _)) if status.is_server_error() => answers.failures += 1,
                // Before the first request with this key is done; or too many at once.
                Ok((StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, _)) => {}
                Ok((status, text)) => panic!("{method} {path}: {status} {text}"),
            }
            assert!(start.elapsed() < LIMIT, "{method} {path}: not answered 2xx within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(StatusCode, String), reqwest::Error> {
    let answer = request.send().await?;
    Ok((answer.status(), answer.text().await?))
}
