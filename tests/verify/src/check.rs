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
    let operations = operations::Operations::of(evidence);
    delivery::check(evidence, &operations, &mut report);
    repeats::check(evidence, &mut report);
    order::check(evidence, &operations, &mut report);
    progress::check(evidence, &mut report);
    owners::check(evidence, &mut report);
    for check in &mut report.checks {
        if check.examined == Some(0) && check.violations.is_empty() {
            check.violations.push("there was nothing to examine, which proves nothing".to_owned());
        }
    }
    report
}
