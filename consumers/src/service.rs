//! What the three processes share: start, health, signals, and an end within five seconds.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use task_events::error_code::{Code, Coded};
use task_events::exit::exit_with_code;
use task_events::logging;
use task_events::runtime::{self, ConsumerConfig, Service, Status};
use task_events::shutdown;
use task_events::state_dir::StateDir;
use task_events::version::version;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::args::ConsumerArgs;
use crate::health;
use crate::metrics::{Own, OwnMetrics, OwnWarnings, Subject};

/// Time for the runtime to finish the event in flight, commit and release.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);
/// Time for what comes after, so that both together stay below five seconds.
const AT_END_LIMIT: Duration = Duration::from_millis(300);
/// One partition is one loop beside its reader: more threads would only hold memory.
const THREADS: usize = 2;

/// What a service reads, and as whom.
#[derive(Debug, Clone)]
pub struct Reads {
    /// The service's name.
    pub name: &'static str,
    /// The consumer group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// Where events go that it cannot handle, if anywhere.
    pub dlq_topic: Option<String>,
}

/// A service whose durable state is open.
pub struct Opened<S> {
    /// What it does with events.
    pub service: S,
    /// What is left to do after the last commit. Runs where it may block.
    pub at_end: Box<dyn FnOnce() + Send>,
    /// What it adds to the metrics.
    pub metrics: OwnMetrics,
    /// What it adds to `/readyz`: what somebody has to look at though the service goes on.
    pub warnings: OwnWarnings,
}

/// Runs a service from its arguments to its end. Returns after an orderly stop; a start that fails is one
/// line on stderr and exit code 1.
///
/// `open` gets the service's state folder and may block: health answers meanwhile, and a signal ends it.
pub fn run<S, E>(
    args: &ConsumerArgs,
    reads: Reads,
    open: impl FnOnce(&Path) -> Result<Opened<S>, E> + Send + 'static,
) where
    S: Service,
    E: Display + Coded + Send + 'static,
{
    let _last_lines = logging::init(&args.log)
        .unwrap_or_else(|error| exit_with_code(Code::Logging, format_args!("cannot start logging: {error}")));
    let state = StateDir::open(&args.state.state_dir, &reads.group)
        .unwrap_or_else(|error| exit_with_code(Code::StateFolder, error));
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let threads = threads.unwrap_or_else(|error| {
        exit_with_code(Code::System, format_args!("cannot start the async runtime: {error}"))
    });
    threads.block_on(serve(args, reads, &state, open));
    // Not waited for: a thread that hangs in file work would hold up the end.
    threads.shutdown_background();
}

async fn serve<S, E>(
    args: &ConsumerArgs,
    reads: Reads,
    state: &StateDir,
    open: impl FnOnce(&Path) -> Result<Opened<S>, E> + Send + 'static,
) where
    S: Service,
    E: Display + Coded + Send + 'static,
{
    let shutdown = shutdown::on_signals().unwrap_or_else(|error| {
        exit_with_code(Code::System, format_args!("cannot listen for signals: {error}"))
    });
    let status = Status::default();
    let own = Arc::new(OnceLock::new());
    if let Some(addr) = args.health_addr {
        let subject = Subject {
            service: reads.name,
            group: reads.group.clone(),
            topic: reads.topic.clone(),
            status: status.clone(),
            own: Arc::clone(&own),
        };
        health::start(addr, subject).unwrap_or_else(|error| exit_with_code(Code::Listen, error));
    }
    log::info!(
        "{} {} starts as group {} on {}, state in {}",
        reads.name,
        version(),
        reads.group,
        args.kafka.kafka_bootstrap_servers.join(","),
        state.path().display()
    );
    let folder = state.path().to_owned();
    let opened = match shutdown.or(spawn_blocking(move || open(&folder))).await {
        None => return,
        Some(Ok(Ok(opened))) => opened,
        Some(Ok(Err(error))) => exit_with_code(error.code(), error),
        Some(Err(error)) => {
            exit_with_code(Code::System, format_args!("cannot open the service's state: {error}"))
        }
    };
    // Set once: this is the only place.
    let _ = own.set(Own { metrics: opened.metrics, warnings: opened.warnings });
    let config = ConsumerConfig {
        kafka: args
            .kafka
            .kafka(&reads.group)
            .with_missing_topic_hint("create it with `taskctl topics create`"),
        foreign_group_hint: Some(format!(
            "set another GROUP, or hand the group over with `taskctl offsets reset {} --to earliest --execute`",
            reads.group
        )),
        topic: reads.topic,
        offsets_topic: args.topics.offsets_topic.clone(),
        dlq_topic: reads.dlq_topic,
        group: reads.group,
        service: reads.name.to_owned(),
        identity: state.identity(),
        host: host(),
        lease: args.lease.lease(),
    };
    let consumer = runtime::run(config, opened.service, status, shutdown.clone());
    match shutdown.or_after(STOP_LIMIT, consumer).await {
        Some(()) => {
            if timeout(AT_END_LIMIT, spawn_blocking(opened.at_end)).await.is_err() {
                log::warn!("the last checkpoint took too long: the next start has a little more to do");
            }
        }
        None => log::warn!(
            "not done {} s after the stop was asked for: ending without a release; the next owner waits for the lease to end and repeats a little",
            STOP_LIMIT.as_secs_f32()
        ),
    }
}

/// Where this process runs, for people.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.map(|name| name.trim().to_owned()).or_else(|| std::env::var("HOSTNAME").ok());
    format!("{}:{}", name.as_deref().unwrap_or("unknown-host"), std::process::id())
}
