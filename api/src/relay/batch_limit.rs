//! How large a request may be: as large as the topic takes, which it says only by refusing one.

use std::time::Duration;

use tokio::time::Instant;

use super::window::REQUEST_BYTES;

/// How long requests are kept small once the topic has refused a larger one: it may have been the one large event
/// in it, or the topic's limit may be raised.
const SMALL_FOR: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct BatchLimit {
    bytes: usize,
    refused: Instant,
}

impl BatchLimit {
    pub(super) fn new() -> Self {
        Self { bytes: REQUEST_BYTES, refused: Instant::now() }
    }

    /// Bytes of a request, at most.
    pub(super) fn bytes(&self) -> usize {
        if self.refused.elapsed() >= SMALL_FOR { REQUEST_BYTES } else { self.bytes }
    }

    /// A request of that size was refused: the next one has half of it.
    pub(super) fn refused(&mut self, bytes: usize) {
        *self = Self { bytes: bytes / 2, refused: Instant::now() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_small_for_a_while_after_one_was_refused() {
        let mut limit = BatchLimit::new();
        assert_eq!(limit.bytes(), REQUEST_BYTES);
        limit.refused(10_000);
        limit.refused(5_000);
        assert_eq!(limit.bytes(), 2_500);
        limit.refused = Instant::now().checked_sub(SMALL_FOR).unwrap();
        assert_eq!(limit.bytes(), REQUEST_BYTES, "what was refused may have been one large event");
    }
}
