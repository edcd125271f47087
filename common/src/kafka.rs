//! Kafka, with every call bounded in time.
//!
//! **Reading** is this crate's own, on the wire messages of kafka-protocol: [`TopicReader`] follows the
//! partitions of a topic as Kafka's consumer does, [`Kafka::read_range`] reads a part of one once, and
//! [`Kafka::list_offset`] and [`Kafka::topic`] say where a log begins and ends, and who leads it.
//!
//! **Producing** is rskafka's partition client made safe to leave alone ([`Producer`]): on its own it waits for
//! ever on a frozen broker, sends a produce again after a failure or a quota, and keeps a broken connection.
//! Here each call has a time limit and is sent once, to the present leader; after a failure the connection is
//! dropped and the next call makes a new one. What to do after a failure is the caller's decision.
//!
//! [`Admin`] creates topics and speaks with group coordinators.
//!
//! | file | what |
//! | --- | --- |
//! | `client` | a cluster, as one process knows it |
//! | `connection`, `stream`, `versions` | one connection: frames, plain or under TLS, versions |
//! | `login`, `sasl`, `scram` | logging in |
//! | `cluster`, `ask`, `race` | which brokers there are; any of them answers |
//! | `metadata`, `leader`, `list_offsets`, `epochs`, `admin` | one question each |
//! | `inspect` | what an operator asks of a cluster |
//! | `presence`, `liveness` | what a call waits for can no longer come |
//! | `counts` | what metrics tell of the client |
//! | `fetch`, `fetcher` | one Fetch; one broker's fetches |
//! | `position`, `follow`, `reader`, `range` | one partition's life; what a caller sees of it |
//! | `records` | record batches |
//! | `producer`, `hop`, `peer`, `partitioner` | producing |

mod admin;
mod ask;
mod boxed;
mod client;
mod cluster;
mod connection;
mod counts;
mod epochs;
mod error;
mod fetch;
mod fetcher;
mod fetchers;
mod follow;
mod hop;
mod inspect;
mod leader;
mod limits;
mod list_offsets;
mod liveness;
mod login;
mod metadata;
mod partitioner;
mod peer;
mod position;
mod presence;
mod producer;
mod race;
mod range;
mod reader;
pub mod records;
mod sasl;
mod scram;
mod topic;
mod versions;

use boxed::BoxFuture;

pub use admin::{Admin, Coordinator, NewTopic, TopicOutcome};
pub use client::Kafka;
pub use counts::render_metrics;
pub use error::KafkaError;
pub use fetch::{Fetched, Isolation};
pub use follow::ReadEvent;
pub use inspect::{BrokerInfo, Probe, Quota, Rights};
pub use limits::{CONNECT_TIMEOUT, REQUEST_TIMEOUT};
pub use list_offsets::OffsetAt;
pub use partitioner::{hash_of_key, partition_for_key};
pub use position::{Jump, JumpReason, Position};
pub use producer::Producer;
pub use range::RangeReader;
pub use reader::{PartitionReader, TopicReader};
pub use records::{Batch, ConsumerRecord, Headers, Unreadable};
pub use rskafka::client::partition::Compression;
pub use rskafka::record::Record as ProducerRecord;
pub use sasl::{Password, Sasl, SaslMechanism, Secret};
pub use topic::{PartitionInfo, TopicInfo};
