//! The Task API held against its promises: the real application, on a free port.

mod access;
mod anything;
mod browser;
mod concurrency;
mod damaged;
mod delete;
mod description;
mod encoding;
mod events;
mod hostile;
mod http;
mod https;
mod idempotency;
mod list;
mod live;
mod log;
mod metrics;
mod misplaced;
mod model;
mod postgres;
mod process;
mod relay;
mod relay_partitions;
mod schema;
mod store;
mod support;
