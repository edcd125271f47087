//! Parts of requests and answers that several handlers have.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;

/// This node's id; it leads every partition and coordinates every group.
pub(super) const NODE_ID: BrokerId = BrokerId(1);
/// The replica id of a consumer, and the isolation level of one that wants no aborted records.
pub(super) const CONSUMER: BrokerId = BrokerId(-1);
pub(super) const READ_COMMITTED: i8 = 1;

/// Runs file work off the async threads; a panic in it (there is none) counts as a storage error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ResponseError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        log::error!("file work ended early: {error}");
        ResponseError::KafkaStorageError
    })
}

pub(super) fn throttle_ms(throttle: Duration) -> i32 {
    i32::try_from(throttle.as_millis()).unwrap_or(i32::MAX)
}

pub(super) fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(super) fn error_code(result: &Result<impl Sized, ResponseError>) -> i16 {
    result.as_ref().err().map_or(0, ResponseError::code)
}
