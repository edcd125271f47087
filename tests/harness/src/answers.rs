//! What the clients of a load were answered, and how often they were not.

use std::time::Duration;

use crate::history::Change;
use crate::requests::{Answer, Request};

/// What the clients were answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// Every request, in the order of sending.
    pub requests: Vec<Request>,
    /// The changes that were answered 2xx; those of one task in their order.
    pub changes: Vec<Change>,
    /// Answers of 500 and above.
    pub failures: usize,
    /// Requests without an answer: the connection was refused, or broke.
    pub unanswered: usize,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Answers {
    /// Of requests in each client's order.
    pub(crate) fn of(mut requests: Vec<Request>, took: Duration) -> Self {
        let count = |wanted: fn(&Answer) -> bool| requests.iter().filter(|one| wanted(&one.answer)).count();
        let done = requests.iter().filter_map(|request| Some((request.kind, request.done()?)));
        let changes =
            done.flat_map(|(kind, task)| kind.events().iter().map(|event| Change::of_task(event, task)));
        let changes = changes.collect();
        let failures = count(|answer| matches!(answer, Answer::Failed { .. }));
        let unanswered = count(|answer| matches!(answer, Answer::None { .. }));
        requests.sort_by_key(|request| request.sent);
        Self { requests, changes, failures, unanswered, took }
    }
}
