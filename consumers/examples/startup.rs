//! Measures how long the audit service takes to start, and its memory, with 100 lines and with 1,000,000.
//!
//! `cargo build --release -p consumers && cargo run --release -p consumers --example startup`

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use consumers::audit;
use rustix::process::{Pid, Signal, kill_process};
use task_events::event::{Event, TaskData, TaskEvent};
use task_events::kafka::{Compression, Kafka, NewTopic, ProducerRecord};
use uuid::Uuid;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let broker =
        devbroker::Broker::start(devbroker::Config::new(addr, folder.path().join("broker"))).await.unwrap();
    let kafka = Kafka::new(vec![broker.addr().to_string()], "startup");
    for (name, policy) in
        [("task-events", "delete"), ("task-events-offsets", "compact"), ("task-events-dlq", "delete")]
    {
        let configs = vec![("cleanup.policy".to_owned(), policy.to_owned())];
        let topic = NewTopic { name: name.to_owned(), partitions: 1, replication_factor: 1, configs };
        kafka.admin().create_topic(&topic).await.unwrap();
    }
    println!(
        "{:>9} {:40} {:>10} {:>10} {:>9} {:>9}",
        "lines", "start", "loaded ms", "claimed ms", "RSS MB", "peak MB"
    );
    for lines in [100, 1_000_000] {
        let group = format!("g{lines}");
        let service = Service { folder: folder.path(), bootstrap: broker.addr().to_string(), group };
        write_log(&service.log(), lines);
        let child = service.start(lines, "no index: the whole log is read");
        stop(child, Signal::TERM);
        for _ in 0..3 {
            let child = service.start(lines, "after an orderly stop");
            stop(child, Signal::TERM);
        }
        for _ in 0..3 {
            let child = service.start(lines, "after kill -9, idle");
            stop(child, Signal::KILL);
        }
        let child = service.start(lines, "");
        let before = fs::metadata(service.log()).unwrap().len();
        produce(&kafka, 20_000).await;
        while fs::metadata(service.log()).unwrap().len() < before + 20_000 * 300 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop(child, Signal::KILL);
        let child = service.start(lines, "after kill -9 at 20,000 events at once");
        stop(child, Signal::TERM);
    }
    broker.shutdown().await;
}

struct Service<'a> {
    folder: &'a Path,
    bootstrap: String,
    group: String,
}

impl Service<'_> {
    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.group))
    }

    /// Starts the service and returns when it has claimed its partition.
    fn start(&self, lines: usize, what: &str) -> Child {
        let programs = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let mut command = Command::new(programs.join("audit-service"));
        command
            .env_clear()
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.bootstrap)
            .env("STATE_DIR", self.folder.join("state"))
            .env("AUDIT_LOG_PATH", self.log())
            .env("GROUP", &self.group)
            .stdout(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().expect("audit-service is built");
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        said.find(|line| line.contains("Loaded ")).unwrap();
        let loaded = start.elapsed();
        said.find(|line| line.contains(" claimed ")).unwrap();
        let claimed = start.elapsed();
        // Or it would stop at a full pipe.
        std::thread::spawn(move || said.count());
        let (now, peak) = memory(&child);
        if !what.is_empty() {
            println!(
                "{lines:>9} {what:40} {:>10.1} {:>10.1} {now:>9.1} {peak:>9.1}",
                loaded.as_secs_f64() * 1e3,
                claimed.as_secs_f64() * 1e3
            );
        }
        child
    }
}

fn stop(mut child: Child, signal: Signal) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap();
}

/// Resident memory now and at its peak, in MB.
fn memory(child: &Child) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let kilobytes = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kilobytes("VmRSS:") / 1024.0, kilobytes("VmHWM:") / 1024.0)
}

/// A log as the service writes it, of a topic that is not there any more.
fn write_log(path: &Path, lines: usize) {
    let mut log = BufWriter::new(File::create(path).unwrap());
    for offset in 0..lines {
        let json = serde_json::to_vec(&event()).unwrap();
        let event = Event::decode(Some(&json)).unwrap();
        let at = audit::At { topic: "history".into(), partition: 0, offset: offset as i64 };
        log.write_all(&audit::render(&event, &event.occurred_at, at).unwrap()).unwrap();
    }
    log.into_inner().unwrap().sync_all().unwrap();
}

fn event() -> TaskEvent {
    let data = TaskData {
        task_id: Uuid::now_v7(),
        title: "A title of the usual length".to_owned(),
        status: "pending".to_owned(),
        owner_id: None,
    };
    TaskEvent::task_created(data, Uuid::new_v4())
}

async fn produce(kafka: &Kafka, count: usize) {
    let partition = kafka.producer("task-events", 0);
    for _ in 0..count / 1_000 {
        let record = || ProducerRecord {
            key: Some(b"key".to_vec()),
            value: Some(serde_json::to_vec(&event()).unwrap()),
            headers: BTreeMap::new(),
            timestamp: chrono::Utc::now(),
        };
        let records: Vec<_> = (0..1_000).map(|_| record()).collect();
        partition.produce(&records, Compression::NoCompression).await.unwrap();
    }
}
