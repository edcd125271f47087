//! **A Kafka broker for demos and tests. Never for production.**
//!
//! One process, one node, no replication, no security. It speaks enough of
//! Kafka's protocol for rskafka, librdkafka and Kafka's own console tools, keeps its records in
//! plain files, and acknowledges a produce only after `fdatasync`. See `README.md` beside this
//! crate for the APIs, the file format and what differs from Kafka.
//!
//! ```no_run
//! # async fn demo() -> Result<(), devbroker::Error> {
//! let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
//! let broker = devbroker::Broker::start(devbroker::Config::new(addr, "data")).await?;
//! println!("bootstrap server: {}", broker.addr());
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod api;
mod broker;
mod client;
mod clock;
mod config;
mod data_folder;
mod durable;
mod error;
mod faults;
mod groups;
mod journal;
mod log;
mod maintenance;
mod options;
mod producer_ids;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod server;
mod shared;
mod stop;
mod topics;
mod transactions;
mod wire;

pub use broker::{Broker, WARNING};
pub use error::Error;
pub use options::Config;
