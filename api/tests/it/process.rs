//! The binary: its configuration, its end in order and by force, and a full disk.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use harness::{Process, Signal};
use reqwest::{Client, StatusCode};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use task_api::store::{Filter, Store};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::relay::{Cluster, free_address};
use crate::store::{create, done, load};
use crate::support::{NO_KAFKA, SOON, eventually};

pub fn command(state_dir: &Path) -> Command {
    let mut command = Command::new("sh");
    // A file over its limit is an error of the write, as a full disk is, instead of a signal.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_task-api")]);
    command.env_clear().env("STATE_DIR", state_dir).env("PORT", "0");
    command.env("KAFKA_BOOTSTRAP_SERVERS", NO_KAFKA);
    command
}

/// A running `task-api` with its log. Killed when dropped.
pub struct Service {
    process: Process,
    pub url: String,
    pub client: Client,
}

impl Service {
    pub async fn start(state_dir: &Path) -> Self {
        Self::spawn(&mut command(state_dir)).await
    }

    /// With its own limits of open files, of which it may raise the soft one.
    pub async fn with_files(state_dir: &Path, soft: u64, hard: u64) -> Self {
        let mut limited = Command::new("sh");
        let script = "ulimit -S -n $0 && ulimit -H -n $1 && shift && exec \"$@\"";
        let plain = command(state_dir);
        limited.args(["-c", script, &soft.to_string(), &hard.to_string()]);
        limited.arg(plain.get_program()).args(plain.get_args()).env_clear();
        limited.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self::spawn(&mut limited).await
    }

    async fn with_kafka(state_dir: &Path, kafka: &str) -> Self {
        Self::spawn(command(state_dir).env("KAFKA_BOOTSTRAP_SERVERS", kafka)).await
    }

    /// With its tasks in that database.
    pub async fn with_database(state_dir: &Path, kafka: &str, url: &str) -> Self {
        let mut command = command(state_dir);
        Self::spawn(command.env("KAFKA_BOOTSTRAP_SERVERS", kafka).env("DATABASE_URL", url)).await
    }

    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    async fn spawn(command: &mut Command) -> Self {
        let mut process = Process::spawn("task-api", command).unwrap();
        let line = process.wait_for_line("listening on ", SOON).await.unwrap();
        Self { process, url: line.rsplit_once(' ').unwrap().1.to_owned(), client: Client::new() }
    }

    /// The log lines that contain the text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.process.lines().into_iter().filter(|line| line.contains(text)).collect()
    }

    fn terminate(&mut self) {
        self.process.signal(Signal::TERM).unwrap();
    }

    /// Waits for the end; returns the exit code and how long it took.
    pub async fn ended(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let status = self.process.wait_exit(SOON).await.unwrap();
        (status.code(), started.elapsed())
    }

    pub fn post(&self, title: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/tasks", self.url)).body(json!({"title": title}).to_string())
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Clients that create tasks until the service is gone; returns the ids of those that were answered 201.
    fn creating(&self, clients: usize) -> JoinSet<Vec<String>> {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let post = self.post("under load");
            running.spawn(async move {
                let mut acknowledged = Vec::new();
                while let Ok(response) = post.try_clone().unwrap().send().await {
                    assert_eq!(response.status(), 201);
                    let Ok(task) = response.json::<Value>().await else { break };
                    acknowledged.push(task["id"].as_str().unwrap().to_owned());
                }
                acknowledged
            });
        }
        running
    }
}

/// Ids of the tasks in the store of a service that has ended; each has its event.
async fn stored(state_dir: &Path) -> Vec<String> {
    let (store, writer) = Store::open(&state_dir.join("task-api")).unwrap();
    let tasks = store.list(Filter::default(), None, usize::MAX).await.unwrap().tasks;
    let events = store.outbox_after(0, usize::MAX).await.unwrap();
    let told: Vec<_> = events.iter().map(|entry| entry.event.data.task_id).collect();
    assert_eq!(told, tasks.iter().map(|task| task.id).collect::<Vec<_>>(), "each once, in order");
    drop(store);
    tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();
    tasks.into_iter().map(|task| task.id.to_string()).collect()
}

fn is_in_order_within(acknowledged: &[String], stored: &[String]) -> bool {
    acknowledged.iter().all(|id| stored.binary_search(id).is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_201_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut service = Service::start(dir.path()).await;
        let running = service.creating(16);
        let already = acknowledged.len();
        eventually("it is busy", || async { service.logged(" 201 ").len() > 200 }).await;
        service.process.kill9();
        acknowledged.extend(running.join_all().await.into_iter().flatten());
        // One client each may not have read what is logged.
        assert!(acknowledged.len() - already >= 200 - 16, "round {round}");
        let stored = stored(dir.path()).await;
        assert!(is_in_order_within(&acknowledged, &stored), "round {round}");
        // Beyond those, only what was under way.
        assert!(
            stored.len() <= acknowledged.len() + 16 * round,
            "{} of {}",
            acknowledged.len(),
            stored.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_answers_what_is_under_way_and_says_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(dir.path()).await;
    let running = service.creating(16);
    eventually("it is busy", || async { service.logged(" 201 ").len() > 200 }).await;
    service.terminate();
    assert_eq!(service.ended().await.0, Some(0));
    let mut acknowledged: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    let stored = stored(dir.path()).await;
    acknowledged.sort();
    assert_eq!(acknowledged, stored, "nothing was done that was not answered");
    let left = service.logged("wait in the outbox and are delivered after the next start");
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].contains(&format!(" {} events ", stored.len())), "{left:?}");
}

#[tokio::test]
async fn a_stop_waits_neither_for_idle_connections_nor_for_kafka_when_nothing_waits() {
    // A stop that waited for either would take this long each time: one that is shorter shows that it does not.
    const LEAST_WAIT: Duration = Duration::from_secs(4);
    let dir = tempfile::tempdir().unwrap();
    let mut stops = Vec::new();
    while stops.iter().all(|took| *took >= LEAST_WAIT) {
        assert!(stops.len() < 5, "{stops:?}");
        let mut service = Service::start(dir.path()).await;
        assert_eq!(service.get("/readyz").await.0, 200);
        service.terminate();
        let (code, took) = service.ended().await;
        assert_eq!(code, Some(0));
        assert_eq!(service.logged("relay stopped: all events are delivered").len(), 1);
        stops.push(took);
    }
}

/// The limit of one file's size acts as a full disk: a write fails, and succeeds again later.
fn limit_files(service: &Service, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    let pid = Pid::from_raw(service.process.id().cast_signed());
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// How much space is needed, and how much there is.
fn says_what_is_needed(text: &str) -> bool {
    text.contains("16 MiB of free space") && text.contains(" MiB are free now")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_free_space_changes_are_refused_and_reads_go_on_until_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let title = "x".repeat(500);
    let mut acknowledged = Vec::new();
    let mut keep = async |response: reqwest::Response| match response.status().as_u16() {
        201 => {
            acknowledged.push(response.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
            true
        }
        503 => {
            assert_eq!(response.headers()["retry-after"], "1");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            false
        }
        other => panic!("{other}"),
    };
    for round in 1..=2 {
        let size = fs::metadata(dir.path().join("task-api/tasks.redb")).unwrap().len();
        limit_files(&service, Some(size));
        while keep(service.post(&title).send().await.unwrap()).await {}
        // Over several attempts of the store to go on: reads never fail, no change is taken.
        let until = Instant::now() + Duration::from_millis(1_200);
        while Instant::now() < until {
            let (status, page) = service.get("/tasks?limit=1").await;
            assert_eq!((status, page["items"].as_array().unwrap().len()), (StatusCode::OK, 1));
            let refused = service.post(&title).send().await.unwrap().json::<Value>().await.unwrap();
            assert!(says_what_is_needed(refused["detail"].as_str().unwrap()), "{refused}");
            let (status, ready) = service.get("/readyz").await;
            assert_eq!(status, 503);
            assert!(says_what_is_needed(ready["store_failure"].as_str().unwrap()), "{ready}");
            assert_eq!(service.get("/healthz").await.0, 200);
        }
        let refused = "the store cannot be written: ";
        eventually("it is logged", || async { service.logged(refused).len() >= round }).await;
        let logged = service.logged(refused);
        assert_eq!(logged.len(), round, "one line each time");
        assert!(logged.iter().all(|line| says_what_is_needed(line)), "{logged:?}");
        let taken_again = "the store can be written again";
        assert_eq!(service.logged(taken_again).len(), round - 1);
        limit_files(&service, None);
        eventually("it recovers automatically", || async { service.get("/readyz").await.0 == 200 }).await;
        for _ in 0..10 {
            assert!(keep(service.post(&title).send().await.unwrap()).await);
        }
        eventually("that is logged", || async { service.logged(taken_again).len() >= round }).await;
        assert_eq!(service.logged(taken_again).len(), round);
    }
    drop(service);
    let stored = stored(dir.path()).await;
    assert!(is_in_order_within(&acknowledged, &stored));
    assert!(acknowledged.len() > 20 && stored.len() - acknowledged.len() <= 2, "what was refused");
}

/// The outbox may grow as far as the disk goes: the process takes no more memory for it, says how much waits,
/// and delivers it in order once Kafka comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_outbox_takes_no_memory_is_reported_and_drains_in_order() {
    const EVENTS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("task-api")).unwrap();
    let (store, writer) = Store::open(&dir.path().join("task-api")).unwrap();
    load(&store, 64, EVENTS.div_ceil(64), |store, _, _| async move {
        done(&store, create(&"x".repeat(400))).await;
    })
    .await;
    let waiting = store.outbox().borrow().waiting;
    drop(store);
    tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap();

    let address = free_address();
    let service = Service::with_kafka(dir.path(), &address.to_string()).await;
    let line = format!("{waiting} events wait in the outbox");
    eventually("it is logged how many wait", || async { !service.logged(&line).is_empty() }).await;
    assert_eq!(service.get("/readyz").await.1["outbox"]["waiting"], waiting);
    let cluster = Cluster::at(address).await;
    cluster.create_topic(1, &[]).await;
    let mut left = waiting;
    while left > 0 {
        let before = left;
        let fewer = async || {
            let ready = service.get("/readyz").await.1;
            ready["outbox"]["waiting"].as_u64().filter(|now| *now < before)
        };
        let progress = async {
            loop {
                match fewer().await {
                    Some(now) => break now,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        left = timeout(SOON, progress).await.expect("some of it is delivered");
    }
    let at_most = service.memory();
    println!("{at_most} MiB after {waiting} events");
    assert!(at_most < 150, "{at_most} MiB");
    let records = cluster.records(0).await;
    assert_eq!(records.len() as u64, waiting);
    // Ids rise with the commits.
    assert!(records.is_sorted_by_key(|record| record.record.key.clone()));
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Ends with the code and one line on stderr that contains the text.
#[track_caller]
fn fails(command: &mut Command, code: i32, text: &str) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running, expected: {text}");
        }
        // No async thread here.
        #[allow(clippy::disallowed_methods)]
        thread::sleep(Duration::from_millis(5));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(code), "{said}");
    assert!(said.lines().count() == 1 && said.contains(text), "{text}: {said}");
}

#[test]
fn a_bad_value_is_one_line_that_names_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, values) in [
        ("PORT", ["eight", "65536"]),
        ("ALLOWED_HOSTS", ["tasks.example.org:443", "a,*"]),
        ("LOG_LEVEL", ["loud", ""]),
        ("LOG_FORMAT", ["xml", ""]),
        ("KAFKA_BOOTSTRAP_SERVERS", ["nonsense", "a:1,b"]),
        ("TASK_EVENTS_TOPIC", ["a b", ""]),
    ] {
        for value in values {
            fails(command(dir.path()).env(variable, value), 2, variable);
        }
    }
    fails(command(dir.path()).arg("--speed"), 2, "--speed");
    fails(command(dir.path()).args(["--port", "x"]), 2, "PORT");
    assert!(!dir.path().join("task-api").exists(), "nothing was begun");
}

#[test]
fn what_is_not_there_to_be_used_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(command(dir.path()).env("PORT", &port), 1, &format!("127.0.0.1:{port}"));
    fails(command(dir.path()).env("HOST", "no such host"), 1, "HOST");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    fails(command(dir.path()).env("STATE_DIR", &file), 1, "STATE_DIR");
    // Nobody may write there, root neither.
    fails(command(dir.path()).env("STATE_DIR", "/proc/task-api"), 1, "STATE_DIR");

    fs::create_dir_all(dir.path().join("damaged/task-api")).unwrap();
    fs::write(dir.path().join("damaged/task-api/tasks.redb"), "not a store at all").unwrap();
    fails(command(dir.path()).env("STATE_DIR", dir.path().join("damaged")), 1, "tasks.redb");
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let path = dir.path().to_owned();
    tokio::task::spawn_blocking(move || fails(&mut command(&path), 1, "STATE_DIR")).await.unwrap();
    assert_eq!(service.post("the first goes on").send().await.unwrap().status(), 201);
}

#[test]
fn help_names_every_variable_and_version_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(command(dir.path()).arg("--help"));
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    for variable in [
        "HOST",
        "PORT",
        "ALLOWED_HOSTS",
        "KAFKA_BOOTSTRAP_SERVERS",
        "TASK_EVENTS_TOPIC",
        "STATE_DIR",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ] {
        assert!(text.contains(&format!("[env: {variable}=")), "{variable}: {text}");
    }
    let version = run(command(dir.path()).arg("--version"));
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        format!("task-api {}\n", env!("CARGO_PKG_VERSION"))
    );
}
