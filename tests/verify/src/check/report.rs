//! What the checks found, and how it is shown.

use std::fmt;

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
    pub(crate) fn new(name: &'static str, examined: usize, violations: Vec<String>) -> Self {
        Self { name, examined: Some(examined), violations }
    }

    pub(crate) fn without_evidence(name: &'static str) -> Self {
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
