//! The checks: pure functions over [`Evidence`]. Each says what it looked at and what it found. One whose
//! evidence was not given says `-`; one that had its evidence and found nothing in it to look at has failed.

mod delivery;
mod operations;
mod order;
mod owners;
mod progress;
mod repeats;

use std::fmt;

use crate::evidence::Evidence;

/// Violations shown of each check.
const SHOWN: usize = 5;

/// What all checks found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Each check.
    pub checks: Vec<Check>,
    /// What is worth knowing and no violation.
    pub notes: Vec<String>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it looks for.
    pub name: &'static str,
    /// How many things it looked at; none where the evidence for it is missing.
    pub examined: Option<usize>,
    /// What it found.
    pub violations: Vec<String>,
}

impl Check {
    fn new(name: &'static str, examined: usize, violations: Vec<String>) -> Self {
        Self { name, examined: Some(examined), violations }
    }

    fn without_evidence(name: &'static str) -> Self {
        Self { name, examined: None, violations: Vec::new() }
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.violations() == 0
    }

    /// How much is wrong.
    pub fn violations(&self) -> usize {
        self.checks.iter().map(|check| check.violations.len()).sum()
    }

    /// What a check found, by its name.
    pub fn found(&self, name: &str) -> &[String] {
        let check = self.checks.iter().find(|check| check.name == name);
        check.map_or(&[], |check| &check.violations)
    }

    /// Adds another round.
    pub fn add(&mut self, other: Self) {
        for check in other.checks {
            match self.checks.iter_mut().find(|known| known.name == check.name) {
                Some(known) => {
                    known.violations.extend(check.violations);
                    known.examined = match (known.examined, check.examined) {
                        (Some(before), Some(more)) => Some(before + more),
                        (one, other) => one.or(other),
                    };
                }
                None => self.checks.push(check),
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<38} {:>10} {:>6}", "CHECK", "EXAMINED", "FOUND")?;
        for check in &self.checks {
            let examined = check.examined.map_or("-".to_owned(), |examined| examined.to_string());
            writeln!(f, "{:<38} {examined:>10} {:>6}", check.name, check.violations.len())?;
            for violation in check.violations.iter().take(SHOWN) {
                writeln!(f, "    {violation}")?;
            }
            if check.violations.len() > SHOWN {
                writeln!(f, "    … {} more", check.violations.len() - SHOWN)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

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

/// The names of the checks, as they stand in the table.
pub mod names {
    /// Answered 2xx, and its events are not in the audit log, or not in the topic.
    pub const LOST: &str = "lost";
    /// Answered 2xx, and the API does not have it.
    pub const LOST_STATE: &str = "lost in the task store";
    /// In the topic or the audit log, and never asked for.
    pub const UNEXPECTED: &str = "unexpected";
    /// Says something else than was asked for.
    pub const ALTERED: &str = "altered";
    /// An answer of 500 or above.
    pub const REFUSED: &str = "refused (5xx)";
    /// A created or completed task of which nobody was told.
    pub const NOT_TOLD: &str = "notification missing";
    /// Twice in the audit log.
    pub const TWICE_AUDITED: &str = "duplicate in the audit log";
    /// Twice in the topic, and nothing explains it.
    pub const TWICE_IN_TOPIC: &str = "duplicate in the topic, unexplained";
    /// The changes of a task in another order than they were made.
    pub const ORDER: &str = "order of a task";
    /// The audit log in another order than the topic.
    pub const TOPIC_ORDER: &str = "audit log in topic order";
    /// A commit of work that was not done yet.
    pub const AHEAD: &str = "commit ahead of its work";
    /// Two owners at work.
    pub const OWNERS: &str = "two owners";
    /// Work that did not end although all faults were over.
    pub const NOT_DRAINED: &str = "not drained";
}
