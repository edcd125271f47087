//! The three consumers of task events, each a [`Service`](task_events::runtime::Service) on the runtime of
//! `task-events`.
//!
//! - [`notification`]: tells of new and completed tasks.
//! - [`audit`]: writes every event to a log, each once.
//! - [`dead_letters`]: looks after events that a consumer could not handle.
//! - [`lines`]: what the notification service and the DLQ processor write to stdout as their work.
//! - [`args`], [`service`], [`health`], [`metrics`]: what the three processes share.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod args;
pub mod audit;
pub mod dead_letters;
pub mod health;
pub mod lines;
pub mod metrics;
pub mod notification;
pub mod service;
pub mod webhook;
