//! What a partition, or a whole consumer, waits for: logged once, and shown while it lasts.

use super::status::Status;
use crate::log_once::LogOnce;

/// One cause that may stop a partition, or the whole consumer: logged once, shown while it lasts.
#[derive(Debug)]
pub(super) struct Trouble {
    status: Status,
    partition: Option<i32>,
    cause: &'static str,
    log: LogOnce,
}

impl Trouble {
    /// Of one partition, or of all.
    pub(super) fn new(status: &Status, partition: impl Into<Option<i32>>, cause: &'static str) -> Self {
        let log = LogOnce::new("task_events::runtime");
        Self { status: status.clone(), partition: partition.into(), cause, log }
    }

    /// It lasts, or begins.
    pub(super) fn report(&mut self, why: &str) {
        self.log.warn(why);
        self.status.insert_problem(self.partition, self.cause, why);
    }

    /// It is over, if there was any.
    pub(super) fn over(&mut self, what: &str) {
        self.log.over(what);
        self.status.end_problem(self.partition, self.cause);
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.status.end_problem(self.partition, self.cause);
    }
}
