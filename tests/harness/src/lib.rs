//! What the end-to-end tests, `verify` and the benchmarks share: a broker that can be killed, the built binaries as
//! processes, a load, a fault proxy, and witnesses that share no code with the binaries.
//!
//! `E2E_BROKER` chooses the broker: `dev` (the default, the `devbroker` binary) or `kafka` (a fresh
//! Apache Kafka a test; `KAFKA_LIBS` is the folder that `tests/e2e/kafka/fetch` filled). With `KAFKA_LIBS` set,
//! Kafka's own tools are asked too, with either broker. `E2E_REGISTRY` names the folder of a Schema Registry that
//! `tests/e2e/registry/fetch` filled; without it, tests have a small one of the harness's own.
//!
//! Whatever fails here is an [`Error`] that says what happened, to what. A test returns an [`Outcome`] and uses `?`,
//! which adds the place; when it fails, each process that it had prints its last lines.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod answers;
mod api;
mod broker;
mod certificates;
mod clock;
mod cluster;
mod dice;
mod disk;
mod error;
mod event;
mod foreign;
mod history;
mod kafka_tools;
mod late;
mod load;
mod net;
mod offsets;
mod outage;
mod ports;
mod postgres;
mod process;
mod produce_proxy;
mod proxy;
mod registry;
pub mod requests;
mod service;
mod tcp;
mod tls_front;
mod topic;
mod topic_config;
mod wire;
mod world;

pub use answers::Answers;
pub use api::{Api, id_of};
pub use broker::{Broker, Kind, SecureListener};
pub use certificates::{Authority, Certificate, Validity, replace};
pub use clock::SteppedClock;
pub use cluster::{Cluster, PartitionRow};
pub use dice::Dice;
pub use disk::{FailingDisk, Hang, SmallDisk};
pub use error::{Error, Failure, Outcome, Result};
pub use event::Event;
pub use foreign::{Transaction, produce_gzip_bomb, produce_with_headers};
pub use history::{Change, History, Seen};
pub use kafka_tools::{ConsoleRecord, GroupRow, KafkaTools, measure_kafka};
pub use late::TIMEOUT;
pub use load::{ANSWER_LIMIT, Load, LoadConfig, Script};
pub use net::{DroppingPort, http};
pub use offsets::GroupOffsets;
pub use outage::{Outage, Recovered};
pub use ports::free_port;
pub use postgres::{Postgres, server_folder};
pub use process::Process;
pub use produce_proxy::{Fault, ProduceProxy};
pub use proxy::{Counts, Mode, Proxy};
pub use registry::{Misbehaviour, Registry};
pub use reqwest::{Method, StatusCode};
pub use rustix::process::Signal;
pub use service::{Program, Ran, Service};
pub use tcp::Listener;
pub use tls_front::TlsFront;
pub use topic::{
    TopicRecord, create_topic, delete_topic, keys, produce, produce_compressed, read_topic, record,
};
pub use topic_config::configure_topic;
pub use world::{Bootstrap, CONSUMERS, DLQ, EVENTS, GROUPS, LEASE, OFFSETS, World};

use topic::topic_names;

use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// For what happens at once on an idle machine, and Apache Kafka and several tests may share two cores.
pub const SOON: Duration = Duration::from_secs(60);

/// Time between two questions to a process or a broker, and between two looks at what is in this process.
const ASK_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Lets one test at a time go on: for tests that load the machine, or measure.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Asks again and again until there is an answer, and returns it. `what` is what is waited for.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if start.elapsed() >= limit {
            return Err(Error::timeout(what, limit));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until it holds. `what` is what is waited for.
pub async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds().await {
        if start.elapsed() >= limit {
            return Err(Error::timeout(what, limit));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// How long the shortest of the waits is that a stop grants to Kafka's answers. What took no longer met no stall that
/// such a wait gave up on.
const STALL: Duration = Duration::from_millis(500);

/// Runs a round that ends with a stop, and returns once one went well. A stop waits for Kafka within bounds, so that a
/// machine that stalls can keep it from what it has to leave. A round that failed though its stop took no longer than
/// nominally is the product's fault, and fails at once; another is repeated, but not for ever.
pub async fn undisturbed(
    nominal: Duration,
    mut round: impl AsyncFnMut() -> (Duration, std::result::Result<(), String>),
) -> Result<()> {
    let mut failures = Vec::new();
    while failures.len() < 5 {
        let (took, Err(why)) = round().await else { return Ok(()) };
        failures.push(format!("{why}; the stop took {took:?}"));
        if took < nominal + STALL {
            break;
        }
    }
    Err(Error::failed(failures.join("\n")))
}

/// The lines of an audit log. A last line that is still being written is left out; no file is no lines.
pub fn read_audit_log(path: &Path) -> Result<Vec<serde_json::Value>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(path, error)),
        text => text.unwrap_or_default(),
    };
    let written = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let lines = written.lines().enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| Error::Line {
                path: path.to_owned(),
                line: index + 1,
                why: format!("no JSON ({error}): {line}"),
            })
        })
        .collect()
}

/// The offsets of the events in an audit log, line by line.
pub fn audited_offsets(path: &Path) -> Result<Vec<i64>> {
    let offset = |line: serde_json::Value| {
        let offset = line.pointer("/kafka/offset").and_then(serde_json::Value::as_i64);
        offset.ok_or_else(|| Error::failed(format!("{}: no offset in {line}", path.display())))
    };
    read_audit_log(path)?.into_iter().map(offset).collect()
}

/// A folder of its own, removed with the value.
pub(crate) fn temporary_folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|error| Error::file(&std::env::temp_dir(), error))
}
