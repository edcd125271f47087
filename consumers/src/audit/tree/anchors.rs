//! The sizes and roots that commits carry to Kafka, by origin.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Under which name a commit's `meta` has them.
pub(super) const TREES: &str = "trees";

/// Trees that a commit carries: an anchor has some 150 bytes, and each commit carries all. A tree beyond that is not
/// anchored, and said to be so: nothing that is there is forgotten for it.
pub(super) const MAX_TREES: usize = 64;

/// A tree's size and root, in hexadecimal, as a commit carries them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Anchor {
    pub(super) size: u64,
    pub(super) root: String,
}

/// What is known of this log's anchors.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    newest: Option<(String, Anchor)>,
    /// Partitions whose last commit is known to fit the tree: it is by this process, or was compared.
    confirmed: HashSet<(String, i32)>,
    /// What is to be compared, of which partition.
    unconfirmed: Vec<((String, i32), Anchor)>,
    refuted: bool,
    /// Partitions whose last commit had no space for this tree's anchor.
    crowded_out: HashSet<(String, i32)>,
    /// Kafka's anchor of some partition fits, or it has none.
    compared: bool,
}

impl Anchors {
    /// The tree has that size and root now.
    pub(super) fn set_newest(&mut self, (origin, anchor): (String, Anchor)) {
        self.newest = Some((origin, anchor));
    }

    /// Another tree begins.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether Kafka has an anchor of this tree that it does not fit.
    pub(super) fn is_refuted(&self) -> bool {
        self.refuted
    }

    /// Whether this tree has no anchor in some partition, since there are too many of others.
    pub(super) fn is_crowded_out(&self) -> bool {
        !self.crowded_out.is_empty()
    }

    /// Whether Kafka's anchors are known to fit.
    pub(super) fn may_sign(&self) -> bool {
        self.compared && !self.refuted && self.unconfirmed.is_empty()
    }

    /// The partition has had another owner, maybe.
    pub(super) fn reopen(&mut self, slot: (&str, i32)) {
        let slot = (slot.0.to_owned(), slot.1);
        self.confirmed.remove(&slot);
        self.crowded_out.remove(&slot);
    }

    #[cfg(test)]
    pub(super) fn is_confirmed(&self, slot: (&str, i32)) -> bool {
        self.confirmed.contains(&(slot.0.to_owned(), slot.1))
    }

    pub(super) fn next_unconfirmed(&self) -> Option<Anchor> {
        self.unconfirmed.first().map(|(_, anchor)| anchor.clone())
    }

    pub(super) fn confirm(&mut self, anchor: &Anchor, fits: bool) {
        self.refuted |= !fits;
        let (of_it, rest) = self.unconfirmed.drain(..).partition::<Vec<_>, _>(|(_, other)| other == anchor);
        self.unconfirmed = rest;
        if fits {
            self.compared = true;
            self.confirmed.extend(of_it.into_iter().map(|(slot, _)| slot));
        }
    }

    /// What the next commit of a partition carries. Anchors of other origins are passed on. This tree's takes the place
    /// of the last one once that is known to fit.
    pub(super) fn commit_meta(
        &mut self,
        slot: (&str, i32),
        before: Map<String, Value>,
    ) -> Map<String, Value> {
        let mut meta = before;
        let Some((origin, newest)) = &self.newest else { return meta };
        let trees = meta.entry(TREES).or_insert_with(|| Value::Object(Map::new()));
        let Some(trees) = trees.as_object_mut() else { return meta };
        let slot = (slot.0.to_owned(), slot.1);
        if let Some(last) = trees.get(origin).filter(|_| !self.confirmed.contains(&slot)) {
            // One that cannot be read is not replaced: somebody has to look at it.
            if let Ok(last) = Anchor::deserialize(last)
                && !self.refuted
                && !self.unconfirmed.iter().any(|(other, _)| *other == slot)
            {
                self.unconfirmed.push((slot, last));
            }
            return meta;
        }
        if trees.len() >= MAX_TREES && !trees.contains_key(origin) {
            self.crowded_out.insert(slot);
            self.compared = true;
            return meta;
        }
        self.crowded_out.remove(&slot);
        if let Ok(newest) = serde_json::to_value(newest) {
            if !trees.is_empty() && !trees.contains_key(origin) {
                let others: Vec<&str> = trees.keys().map(String::as_str).collect();
                log::warn!(
                    "Kafka has anchors of other trees of {}/{}: {}; unless they are of other instances' logs, the tree of this log was removed or set aside: compare them by taskctl audit verify --kafka",
                    slot.0,
                    slot.1,
                    others.join(", ")
                );
            }
            trees.insert(origin.clone(), newest);
            self.confirmed.insert(slot);
            self.compared = true;
        }
        meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn anchor(size: u64) -> Anchor {
        Anchor { size, root: format!("{size:064x}") }
    }

    fn meta(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn an_anchor_is_replaced_once_it_fits_and_those_of_others_never_are() {
        let mut anchors = Anchors::default();
        let before = meta(json!({"trees": {"other": anchor(7), "own": anchor(3)}, "x": 1}));
        assert_eq!(anchors.commit_meta(("t", 0), before.clone()), before, "no tree yet");
        anchors.set_newest(("own".to_owned(), anchor(5)));
        for _ in 0..2 {
            assert_eq!(anchors.commit_meta(("t", 0), before.clone()), before, "it was not compared yet");
        }
        assert_eq!((anchors.next_unconfirmed(), anchors.unconfirmed.len()), (Some(anchor(3)), 1));
        anchors.confirm(&anchor(3), true);
        let after = meta(json!({"trees": {"other": anchor(7), "own": anchor(5)}, "x": 1}));
        assert_eq!(anchors.commit_meta(("t", 0), before.clone()), after);
        // From another partition, and after another owner.
        assert_eq!(anchors.commit_meta(("t", 1), before.clone()), before);
        anchors.confirm(&anchor(3), true);
        anchors.reopen(("t", 0));
        assert_eq!(anchors.commit_meta(("t", 0), before.clone()), before);
        anchors.confirm(&anchor(3), false);
        assert!(anchors.is_refuted());
        assert_eq!(anchors.commit_meta(("t", 0), before.clone()), before, "the evidence stays");
        anchors.forget();
        anchors.set_newest(("new".to_owned(), anchor(1)));
        let both = anchors.commit_meta(("t", 0), before);
        assert_eq!(both["trees"]["own"], json!(anchor(3)));
        assert_eq!(both["trees"]["new"], json!(anchor(1)));
        assert_eq!(anchors.commit_meta(("u", 0), Map::new()), meta(json!({"trees": {"new": anchor(1)}})));
    }

    #[test]
    fn anchors_are_bounded_and_none_is_forgotten_for_another() {
        let mut anchors = Anchors::default();
        anchors.set_newest(("own".to_owned(), anchor(5)));
        let others = |count: usize| {
            let trees: Map<_, _> =
                (0..count).map(|number| (format!("other/{number}"), json!(anchor(7)))).collect();
            meta(json!({ "trees": trees }))
        };
        let full = others(MAX_TREES);
        assert_eq!((anchors.commit_meta(("t", 0), full.clone()), anchors.is_crowded_out()), (full, true));
        let with_own = anchors.commit_meta(("t", 0), others(MAX_TREES - 1));
        assert_eq!(
            (with_own["trees"].as_object().unwrap().len(), anchors.is_crowded_out()),
            (MAX_TREES, false)
        );
        assert_eq!(anchors.commit_meta(("t", 0), with_own.clone()), with_own, "its own is one of them");
    }
}
