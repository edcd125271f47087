//! The dead-letter queue: the record of an event that a group could not handle, and its publisher.

mod letter;
mod publisher;
mod record;
#[cfg(test)]
mod tests;

pub use letter::{DeadLetter, Failure};
pub use publisher::DlqPublisher;
pub use record::{DlqRecord, ErrorInfo, Original, OriginalHeader, Source};
