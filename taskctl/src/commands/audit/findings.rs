//! What is wrong, for people: of each kind the first of it is shown, so that much of one kind hides nothing of another;
//! all of it is counted.

use audit_tree::Hash;

/// Findings of each kind that are shown, and with `--all`: more than people read, and no more than memory has space for.
pub(super) const SHOWN: usize = 20;
pub(super) const ALL: usize = 100_000;

/// What a finding is about. They are shown in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The checkpoint, or what Kafka or a witness has of the tree.
    Root,
    /// A tile.
    Tile,
    /// A file of the log.
    File,
    /// Lines that differ from the tree.
    Line,
    /// Lines as events: what is none, is repeated, or out of order.
    Event,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Root, "of roots"),
    (Kind::Tile, "of tiles"),
    (Kind::File, "of files"),
    (Kind::Line, "of lines that differ from the tree"),
    (Kind::Event, "of lines as events"),
];

/// Findings, counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Findings {
    limit: usize,
    counts: [u64; KINDS.len()],
    shown: [Vec<String>; KINDS.len()],
}

impl Default for Findings {
    fn default() -> Self {
        Self::new(SHOWN)
    }
}

impl Findings {
    /// At most so many of each kind are shown.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, counts: [0; KINDS.len()], shown: std::array::from_fn(|_| Vec::new()) }
    }

    pub(super) fn add(&mut self, kind: Kind, finding: impl FnOnce() -> String) {
        let (Some(count), Some(shown)) =
            (self.counts.get_mut(kind as usize), self.shown.get_mut(kind as usize))
        else {
            return;
        };
        *count += 1;
        if shown.len() < self.limit {
            shown.push(finding());
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds those that were found elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        let mine = self.counts.iter_mut().zip(&mut self.shown);
        for ((count, shown), (more, of)) in mine.zip(other.counts.into_iter().zip(other.shown)) {
            *count += more;
            shown.extend(of);
            shown.truncate(self.limit);
        }
    }

    /// All that is shown, and how many of each kind are not.
    pub(super) fn into_lines(self) -> Vec<String> {
        let mut lines = Vec::new();
        for (((_, what), count), shown) in KINDS.iter().zip(self.counts).zip(self.shown) {
            let hidden = count - shown.len() as u64;
            lines.extend(shown);
            if hidden > 0 {
                let how = if self.limit < ALL { ": --all shows them" } else { "" };
                lines.push(format!("... and {hidden} more findings {what}{how}"));
            }
        }
        lines
    }
}

/// A hash in hexadecimal.
pub(super) fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_of_one_kind_hide_none_of_another_and_are_counted() {
        let mut findings = Findings::default();
        (0..300).for_each(|number| findings.add(Kind::Line, || format!("line {number}")));
        let mut others = Findings::default();
        others.add(Kind::Tile, || "a tile".to_owned());
        others.add(Kind::Line, || "one more line".to_owned());
        findings.extend(others);
        findings.add(Kind::Root, || "Kafka has another root".to_owned());
        assert_eq!(findings.count(), 303);
        let lines = findings.into_lines();
        assert_eq!(lines.len(), 2 + SHOWN + 1);
        assert_eq!(lines[..3], ["Kafka has another root", "a tile", "line 0"]);
        assert!(lines[2 + SHOWN].starts_with("... and 281 more findings of lines"), "{lines:?}");
        let mut all = Findings::new(ALL);
        (0..300).for_each(|number| all.add(Kind::Line, || format!("line {number}")));
        assert_eq!(all.into_lines().len(), 300);
    }
}
