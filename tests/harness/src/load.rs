//! Clients that create, change, complete and delete tasks, and record what they were answered.
//!
//! A client owns its tasks. What it asks for is decided by a [`Script`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use crate::answers::Answers;
use crate::dice::Dice;
use crate::error::{Error, Result};
use crate::http;
use crate::late::{LateAnswers, Pending, TIMEOUT, answer};
use crate::requests::{Answer, Kind, Request, Task, now};

/// Time for one answer, where nothing else is meant.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a request that was not answered 2xx.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a request of [`Script::Tasks`] is repeated. The API may be down for a while, and so may the machine be
/// busy.
const REPEAT_LIMIT: Duration = Duration::from_secs(60);
/// How often a load is asked how far it is.
const POLL: Duration = Duration::from_millis(5);

/// What the clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// That many tasks, some of them changed, the same at each run. Each request is repeated until it is
    /// answered 2xx, under an idempotency key, so that it is done once. The rate is that of creations.
    Tasks(usize),
    /// What the seed decides, until the load is finished. Where a request is not answered, one in two is repeated
    /// under its idempotency key until it is; after the others the client leaves the task alone, as it does not
    /// know its state. The rate is that of requests.
    Random {
        /// Decides what is asked for.
        seed: u64,
    },
}

/// What the clients do.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// Where the API is; its replicas, if there are several. Each task begins at the next one, and goes on to another where
    /// it gets no answer, or 5xx: so one that comes back has its share at once.
    pub urls: Vec<String>,
    /// Clients, each with a connection.
    pub connections: usize,
    /// Requests a second, all together; none for as many as the API answers.
    pub rate: Option<u32>,
    /// What they ask for.
    pub script: Script,
    /// Time for one answer. Afterwards a client does not know what came of its request.
    pub answer_limit: Duration,
    /// How much longer an answer that a client has given up is waited for, only to be recorded; not at all unless given.
    pub late_limit: Option<Duration>,
}

impl LoadConfig {
    /// Clients of one API.
    pub fn new(url: &str, connections: usize, rate: Option<u32>, script: Script) -> Self {
        let urls = vec![url.to_owned()];
        Self { urls, connections, rate, script, answer_limit: ANSWER_LIMIT, late_limit: None }
    }
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Result<Vec<Request>>>,
    /// Of clients that have ended.
    requests: Vec<Request>,
}

struct Shared {
    config: LoadConfig,
    http: reqwest::Client,
    start: Instant,
    tickets: AtomicU64,
    /// Tasks that were begun, and those that were created with all that follows.
    begun: AtomicUsize,
    created: AtomicUsize,
    /// Events of what was answered 2xx.
    events: AtomicU64,
    keep: bool,
}

impl Load {
    /// Creates that many tasks as fast as the API answers, over that many connections, and changes some of them.
    pub fn at_full_speed(url: &str, connections: usize, tasks: usize) -> Result<Self> {
        let script = Script::Tasks(tasks);
        Self::start(LoadConfig::new(url, connections, None, script), true)
    }

    /// The same at no more than `rate` creations a second.
    pub fn at_rate(url: &str, connections: usize, tasks: usize, rate: u32) -> Result<Self> {
        let script = Script::Tasks(tasks);
        Self::start(LoadConfig::new(url, connections, Some(rate), script), true)
    }

    /// Starts the clients. `keep`: what they were answered is recorded; else they only count.
    pub fn start(config: LoadConfig, keep: bool) -> Result<Self> {
        let shared = Arc::new(Shared {
            config,
            http: http()?,
            start: Instant::now(),
            tickets: AtomicU64::new(0),
            begun: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            events: AtomicU64::new(0),
            keep,
        });
        let stop = watch::Sender::new(false);
        let seed = match shared.config.script {
            Script::Tasks(_) => 0,
            Script::Random { seed } => seed,
        };
        let clients = (0..shared.config.connections).map(|number| {
            let dice = Dice::new(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            let shared = Arc::clone(&shared);
            let (history, late) = Default::default();
            Client { shared, dice, stop: stop.subscribe(), history, late, number, replica: number }.run()
        });
        Ok(Self { clients: clients.collect(), shared, stop, requests: Vec::new() })
    }

    /// Returns when that many tasks have been created.
    pub async fn reached(&mut self, tasks: usize) -> Result<()> {
        while self.created() < tasks {
            while let Some(ended) = self.clients.try_join_next() {
                self.take(ended)?;
            }
            if self.clients.is_empty() && self.created() < tasks {
                return Err(Error::Failed(format!("the clients have ended after {} tasks", self.created())));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// How many tasks of the script have been created so far.
    pub fn created(&self) -> usize {
        self.shared.created.load(Ordering::Relaxed)
    }

    /// The events of what was answered 2xx so far.
    pub fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Returns what all were answered: once all tasks of the script are done, or else once each client has finished
    /// its request.
    pub async fn finish(&mut self) -> Result<Answers> {
        if let Script::Random { .. } = self.shared.config.script {
            self.stop.send_replace(true);
        }
        while let Some(ended) = self.clients.join_next().await {
            self.take(ended)?;
        }
        Ok(Answers::of(std::mem::take(&mut self.requests), self.shared.start.elapsed()))
    }

    fn take(&mut self, ended: std::result::Result<Result<Vec<Request>>, JoinError>) -> Result<()> {
        let requests =
            ended.map_err(|error| Error::Failed(format!("a client of the load ended: {error}")))?;
        self.requests.extend(requests?);
        Ok(())
    }
}

struct Client {
    shared: Arc<Shared>,
    dice: Dice,
    stop: watch::Receiver<bool>,
    history: Vec<Request>,
    late: LateAnswers,
    /// Its number.
    number: usize,
    /// Which replica is asked, counted on without an end.
    replica: usize,
}

impl Client {
    async fn run(mut self) -> Result<Vec<Request>> {
        match self.shared.config.script {
            Script::Tasks(tasks) => self.tasks(tasks).await?,
            Script::Random { .. } => {
                let mut number = 0_u64;
                while !self.stopped() {
                    number += 1;
                    self.replica = self.number.wrapping_add(usize::try_from(number).unwrap_or(0));
                    self.random_task(number).await;
                }
            }
        }
        self.late.join(&mut self.history).await;
        Ok(self.history)
    }

    /// This client's part of a fixed number of tasks.
    async fn tasks(&mut self, tasks: usize) -> Result<()> {
        loop {
            let number = self.shared.begun.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return Ok(());
            }
            if let Some(rate) = self.shared.config.rate {
                sleep_until(self.shared.start + Duration::from_secs_f64(number as f64 / f64::from(rate)))
                    .await;
            }
            let title = format!("task {number}");
            let task = self.until_done(Kind::Create, None, Some(title.clone())).await?;
            if number.is_multiple_of(10) {
                self.until_done(Kind::Start, Some(&task), Some(format!("{title}, changed"))).await?;
                self.until_done(Kind::Complete, Some(&task), None).await?;
            } else if number % 10 == 5 {
                self.until_done(Kind::PatchCompleted, Some(&task), None).await?;
            } else if number % 10 == 7 {
                self.until_done(Kind::Delete, Some(&task), None).await?;
            }
            self.shared.created.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Repeats a request under one key until it is answered 2xx.
    async fn until_done(&mut self, kind: Kind, task: Option<&Task>, title: Option<String>) -> Result<Task> {
        let key = Uuid::new_v4().to_string();
        let id = task.map(|task| task.id.as_str());
        let start = Instant::now();
        loop {
            match self.ask(kind, task, title.clone(), Some(key.clone())).await {
                Answer::Done { task } => return Ok(task),
                // 409: before the first request with this key is done; 429: too many at once.
                Answer::Refused { status } if status != 409 && status != 429 => {
                    return Err(Error::Failed(format!("{kind:?} of task {id:?}: answered {status}")));
                }
                answer if start.elapsed() >= REPEAT_LIMIT => {
                    let why = format!("not answered 2xx within {REPEAT_LIMIT:?}, but {answer:?}");
                    return Err(Error::Failed(format!("{kind:?} of task {id:?}: {why}")));
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// One task's life: created, mostly changed, mostly completed, sometimes deleted. Ends early where it is unclear how the
    /// task stands.
    async fn random_task(&mut self, number: u64) -> Option<()> {
        let title = format!("task {number} of client {}", self.dice.between(0, 999_999));
        let mut task = self.operation(Kind::Create, None, Some(title.clone())).await?;
        for change in 0..self.dice.between(0, 2) {
            let title = format!("{title}, change {change}");
            task = self.operation(Kind::Retitle, Some(&task), Some(title)).await?;
        }
        task = match self.dice.between(0, 2) {
            0 => task,
            1 => self.operation(Kind::PatchCompleted, Some(&task), None).await?,
            _ => self.operation(Kind::Complete, Some(&task), None).await?,
        };
        if self.dice.percent(20) {
            self.operation(Kind::Delete, Some(&task), None).await?;
        }
        Some(())
    }

    /// `None`: it is unclear whether it was done.
    async fn operation(&mut self, kind: Kind, task: Option<&Task>, title: Option<String>) -> Option<Task> {
        let key = self.dice.percent(50).then(|| Uuid::new_v4().to_string());
        loop {
            self.pace().await;
            if self.stopped() {
                return None;
            }
            match self.ask(kind, task, title.clone(), key.clone()).await {
                Answer::Done { task } => return Some(task),
                // It would be answered so for ever.
                Answer::Refused { status } if status != 409 && status != 429 => return None,
                _ => {}
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

    /// Sends a request once, counts its events, and records the answer.
    async fn ask(
        &mut self,
        kind: Kind,
        task: Option<&Task>,
        title: Option<String>,
        key: Option<String>,
    ) -> Answer {
        let (request, pending) = self.request(kind, task, title, key).await;
        let answer = request.answer.clone();
        if self.shared.keep {
            if let (Some(pending), Some(limit)) = (pending, self.shared.config.late_limit) {
                self.late.wait_for(self.history.len(), pending, limit);
            }
            self.history.push(request);
        }
        match answer {
            Answer::Done { .. } => {
                self.shared.events.fetch_add(kind.events().len() as u64, Ordering::Relaxed);
            }
            Answer::Failed { .. } | Answer::None { .. } => self.replica += 1,
            Answer::Refused { .. } => {}
        }
        answer
    }

    /// The request with its answer, and the answer to come where it was given up.
    async fn request(
        &self,
        kind: Kind,
        task: Option<&Task>,
        title: Option<String>,
        key: Option<String>,
    ) -> (Request, Option<Pending>) {
        let id = task.map_or("", |task| task.id.as_str());
        let (method, path, body) = match kind {
            Kind::Create => (Method::POST, "/tasks".to_owned(), Some(json!({"title": title}))),
            Kind::Retitle => (Method::PATCH, format!("/tasks/{id}"), Some(json!({"title": title}))),
            Kind::Start => {
                let body = json!({"title": title, "status": "in_progress"});
                (Method::PATCH, format!("/tasks/{id}"), Some(body))
            }
            Kind::PatchCompleted => {
                (Method::PATCH, format!("/tasks/{id}"), Some(json!({"status": "completed"})))
            }
            Kind::Complete => (Method::POST, format!("/tasks/{id}/complete"), None),
            Kind::Delete => (Method::DELETE, format!("/tasks/{id}"), None),
        };
        let correlation_id = Uuid::new_v4().to_string();
        let urls = &self.shared.config.urls;
        let replica = self.replica.checked_rem(urls.len()).unwrap_or(0);
        let url = urls.get(replica).map_or(path.clone(), |url| format!("{url}{path}"));
        let mut call = self.shared.http.request(method, url).header("X-Correlation-ID", &correlation_id);
        if let Some(key) = &key {
            call = call.header("Idempotency-Key", key);
        }
        if let Some(body) = &body {
            call = call.json(body);
        }
        let sent = now();
        let mut pending: Pending = Box::pin(answer(call, task.cloned()));
        let in_time = timeout(self.shared.config.answer_limit, &mut pending).await.ok();
        let pending = in_time.is_none().then_some(pending);
        let answer = in_time.unwrap_or_else(|| Answer::None { why: TIMEOUT.to_owned() });
        let ended = now();
        let task_id = task.map(|task| task.id.clone());
        let late = None;
        (Request { kind, task_id, title, key, correlation_id, sent, ended, answer, late, replica }, pending)
    }
}
