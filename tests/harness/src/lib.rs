//! What the end-to-end tests, `verify` and the benchmarks share: a broker that can be killed, the built binaries as
//! processes, a load, a fault proxy, and witnesses that share no code with the binaries.
//!
//! `E2E_BROKER` chooses the broker: `dev` (the default, the `devbroker` binary) or `kafka` (a fresh
//! Apache Kafka a test; `KAFKA_LIBS` is the folder that `tests/e2e/kafka/fetch` filled). With `KAFKA_LIBS` set,
//! Kafka's own tools are asked too, with either broker.
//!
//! [`Load`] and [`Proxy`] return errors. Every other failure here is a panic that says what was awaited; a test that
//! panics prints the last lines of each process it had.

mod api;
mod broker;
mod clock;
mod cluster;
mod dice;
mod disk;
mod error;
mod event;
mod foreign;
mod history;
mod kafka_tools;
mod load;
mod net;
mod offsets;
mod outage;
mod process;
mod proxy;
pub mod requests;
mod service;
mod topic;
mod wire;
mod world;

pub use api::{Api, id_of};
pub use broker::{Broker, Kind};
pub use clock::SteppedClock;
pub use cluster::{Cluster, PartitionRow};
pub use dice::Dice;
pub use disk::{FailingDisk, Hang, SmallDisk};
pub use error::{Error, Result};
pub use event::Event;
pub use foreign::{Transaction, produce_gzip_bomb, produce_with_headers};
pub use history::{Change, History, Seen};
pub use kafka_tools::{ConsoleRecord, GroupRow, KafkaTools};
pub use load::{Answers, Load, LoadConfig, Script};
pub use net::{DroppingPort, free_port, http};
pub use offsets::GroupOffsets;
pub use outage::{Outage, Recovered};
pub use process::Process;
pub use proxy::{Counts, Mode, Proxy};
pub use reqwest::{Method, StatusCode};
pub use rustix::process::Signal;
pub use service::{Program, Ran, Service};
pub use topic::{TopicRecord, create_topic, delete_topic, produce, produce_compressed, read_topic, record};
pub use world::{Bootstrap, CONSUMERS, DLQ, EVENTS, GROUPS, LEASE, OFFSETS, SOON, World};

use topic::topic_names;

use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// Lets one test at a time go on: for tests that load the machine, or measure.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Asks again and again until there is an answer, and returns it. Panics with `what` when time is up.
pub async fn eventually<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The lines of an audit log. A last line that is still being written is left out; no file is no lines.
pub fn read_audit_log(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let written = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let lines = written.lines().enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).unwrap_or_else(|error| {
                panic!("{}: line {} is no JSON ({error}): {line}", path.display(), index + 1)
            })
        })
        .collect()
}
