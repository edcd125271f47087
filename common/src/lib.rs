//! The consumer runtime that rskafka lacks, and what the services of task-events share.
//!
//! The parts, in the order in which an event meets them:
//!
//! - [`event`]: the events of a task, as JSON on the wire.
//! - [`avro`]: the same events as Avro, by the schema of whoever wrote them.
//! - [`registry`], [`schemas`]: the Schema Registry, what is known of its schemas, and the reader of both formats.
//! - [`compatibility`]: why a schema cannot follow those of its subject, in words.
//! - [`kafka`]: a reader and admin client of our own, and rskafka for producing; every call is bounded in time.
//! - [`offsets`]: consumer offsets, ownership and leases in a compacted Kafka topic.
//! - [`dedup`]: the ids of handled events, on disk.
//! - [`runtime`]: reads, decodes, deduplicates, handles, dead-letters and commits. You write a [`runtime::Service`].
//! - [`dlq`]: the record of an event that could not be handled.
//! - [`redrive`]: handing a dead letter to its group again.
//! - [`operate`]: what an operator sees and does: groups, dead letters, traces.
//! - [`tls`], [`http_client`]: TLS without C, for whatever is connected to; HTTP over it.
//! - [`topics`]: the three topics and their configs.
//! - [`disk`]: what durable state asks of a file system.
//! - [`error_code`]: the codes of error lines.
//! - [`services`]: the names of the programs.
//! - [`segments`]: the names of the parts of a log that was rotated.
//! - [`backoff`], [`escape`], [`log_once`], [`time`]: small tools that several of these share.
//! - [`command_line`], [`config`], [`deferred`], [`exit`], [`logging`], [`metrics`], [`output`], [`registry_args`],
//!   [`security_args`], [`shutdown`], [`state_dir`], [`stderr`], [`terminal`], [`url_arg`], [`version`]: what every process needs, from its command line to its end (the folder `process/`).
//!
//! No crate below this one compiles or links C.
//!
//! # A consumer
//!
//! A group of its own that prints each event once. It resumes where it was, stands by while another instance is
//! active, and sends to the DLQ what is no event. The topics have to exist.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use task_events::dedup::{Dedup, Retention};
//! use task_events::event::Event;
//! use task_events::kafka::Kafka;
//! use task_events::runtime::{self, ConsumerConfig, Status, for_each};
//! use task_events::{shutdown, state_dir::StateDir};
//!
//! # async fn consume() -> Result<(), Box<dyn std::error::Error>> {
//! let state = StateDir::open(Path::new("./data"), "printer")?;
//! // Longer than the topic keeps its events: nothing older can be delivered again.
//! let kept = Retention::Window(Duration::from_secs(8 * 86_400));
//! let dedup = Dedup::open(&state.path().join("dedup"), kept)?;
//! let kafka = Kafka::new(vec!["localhost:9092".to_owned()], "printer");
//! let config = ConsumerConfig::new(kafka, "task-events", "printer", state.identity());
//! let service = for_each(
//!     dedup,
//!     |record| {
//!         let event = Event::decode(record.value.as_deref())?;
//!         Ok((event.event_id, event.into_owned()))
//!     },
//!     |event| async move {
//!         println!("{} of {}", event.event_type, event.event_id);
//!         Ok(())
//!     },
//! );
//! runtime::run(config, service, Status::default(), shutdown::on_signals()?).await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod access;
pub mod avro;
pub mod backoff;
pub mod compatibility;
#[cfg(feature = "database")]
pub mod database;
pub mod dedup;
pub mod disk;
pub mod dlq;
pub mod error_code;
pub mod escape;
pub mod event;
pub mod http_client;
pub mod kafka;
pub mod log_once;
pub mod networks;
pub mod offsets;
pub mod operate;
mod process;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod redrive;
pub mod registry;
pub mod runtime;
pub mod schemas;
pub mod segments;
pub mod services;
pub mod time;
pub mod tls;
pub mod topics;

pub use process::{
    api_token, command_line, config, deferred, exit, logging, metrics, output, registry_args, security_args,
    shutdown, state_dir, stderr, terminal, url_arg, version, watched_file,
};
