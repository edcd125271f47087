//! The checks: pure functions over [`Evidence`]. Each says what it looked at and what it found. One whose
//! evidence was not given says `-`; one that had its evidence and found nothing in it to look at has failed.

mod delivery;
pub mod names;
mod operations;
mod order;
mod owners;
mod progress;
mod repeats;
mod report;

pub use report::{Check, Report};

use crate::evidence::Evidence;

/// Runs all checks.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    of_all(evidence, &mut report);
    of_partition(evidence, &mut report);
    require_examined(&mut report);
    report
}

/// Those that do not go by offsets: they hold for several partitions together as well.
pub(crate) fn of_all(evidence: &Evidence, report: &mut Report) {
    delivery::check(evidence, &operations::Operations::of(evidence), report);
}

/// Those of one partition.
pub(crate) fn of_partition(evidence: &Evidence, report: &mut Report) {
    repeats::check(evidence, report);
    order::check(evidence, &operations::Operations::of(evidence), report);
    progress::check(evidence, report);
    owners::check(evidence, report);
}

/// A check that had its evidence and found nothing in it to look at has failed.
pub(crate) fn require_examined(report: &mut Report) {
    for check in &mut report.checks {
        if check.examined == Some(0) && check.violations.is_empty() {
            check.violations.push("there was nothing to examine, which proves nothing".to_owned());
        }
    }
}
