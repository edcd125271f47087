//! Metrics in Prometheus's text format.
//!
//! What counts keeps its own numbers, as atomics or one set a thread; a scrape writes them down here. docs/metrics.md
//! lists what each service exposes, and a test compares the two.

mod durations;
mod process;
mod text;

pub use durations::{Durations, Histogram};
pub use text::Text;

/// The content type of [`Text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
