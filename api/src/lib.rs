//! The Task API: tasks over HTTP, a durable store with a transactional outbox, and the relay to Kafka.
//!
//! ```text
//! request ─ http ─> store (writer: one fsync for many) ─> outbox ─> relay ─> topic
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod access;
pub mod args;
pub mod event_format;
pub mod http;
pub mod live;
pub mod rate_limit;
mod registration;
pub mod relay;
pub mod reply;
pub mod service;
pub mod store;
pub mod task;
pub mod title;
