//! What is wrong with the tree, for `/readyz` and the metrics: the log goes on meanwhile, so nothing else would show it.

use std::sync::Mutex;

use super::lock::lock;

/// What may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It cannot be written or read.
    Failed,
    /// It was set aside since the start of this process.
    SetAside,
    /// Kafka has as many anchors of other trees as a commit may carry.
    NotAnchored,
    /// The witness has not cosigned the newest checkpoint.
    NotWitnessed,
    /// The log has a line that Kafka contradicts.
    Foreign,
    /// Lines were found that Kafka was not asked about yet, or does not have any more.
    Unconfirmed,
}

/// All of it, by the names that the metrics have for them.
pub(super) const TROUBLES: [(Trouble, &str); 6] = [
    (Trouble::Failed, "failed"),
    (Trouble::SetAside, "set_aside"),
    (Trouble::NotAnchored, "not_anchored"),
    (Trouble::NotWitnessed, "not_witnessed"),
    (Trouble::Foreign, "foreign"),
    (Trouble::Unconfirmed, "unconfirmed"),
];

/// What is wrong by now.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Vec<(Trouble, String)>>);

impl Troubles {
    pub(super) fn set(&self, trouble: Trouble, why: String) {
        self.clear(trouble);
        lock(&self.0).push((trouble, why));
    }

    pub(super) fn clear(&self, trouble: Trouble) {
        lock(&self.0).retain(|(other, _)| *other != trouble);
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        lock(&self.0).iter().any(|(other, _)| *other == trouble)
    }

    /// In words.
    pub(super) fn all(&self) -> Vec<String> {
        lock(&self.0).iter().map(|(_, why)| why.clone()).collect()
    }
}
