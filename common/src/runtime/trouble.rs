//! What a partition, or a whole consumer, waits for: logged once, and shown while it lasts.
//! Who has read the line of a problem sees it: it is shown before it is logged.

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
        self.status.insert_problem(self.partition, self.cause, why);
        self.log.warn(why);
    }

    /// It is over, if there was any.
    pub(super) fn over(&mut self, what: &str) {
        self.status.end_problem(self.partition, self.cause);
        self.log.over(what);
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.status.end_problem(self.partition, self.cause);
    }
}
