//! What is wrong, for people: the first of it is shown, all of it is counted.

use audit_tree::Hash;

/// Findings that are shown.
pub(super) const SHOWN: usize = 20;

/// Findings, counted.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) count: u64,
    pub(super) shown: Vec<String>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: impl FnOnce() -> String) {
        self.count += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(finding());
        }
    }
}

/// A hash in hexadecimal.
pub(super) fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
