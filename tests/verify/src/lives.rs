//! A topic that was deleted and created again: both lives on one line of offsets, so that every check can go by
//! offsets. Those of the second life are moved up behind the first.

use std::collections::HashSet;

use crate::evidence::{Evidence, OffsetsEntry, OffsetsSaid, RelaySaid, Seen};

/// Between the lives, so that no offset of the first is one of the second.
const GAP: i64 = 100_000;

/// The first life, as it was just before its end.
#[derive(Debug, Clone)]
pub struct FirstLife {
    /// Its events.
    pub topic: Vec<Seen>,
    /// Its topic ids in the offsets topic.
    pub ids: HashSet<String>,
    /// Where the offsets topic ended then.
    pub offsets_end: i64,
}

impl FirstLife {
    /// Where the second life starts.
    pub fn end(&self) -> i64 {
        self.topic.last().map_or(0, |last| last.offset) + GAP
    }

    /// Moves all that is of the second life.
    pub fn join(&self, evidence: &mut Evidence) {
        let end = self.end();
        let old: HashSet<_> = self.topic.iter().map(|seen| (seen.offset, seen.event_id.as_str())).collect();
        let lines = evidence.audit_logs.iter_mut().flat_map(|log| &mut log.lines);
        for line in lines.chain(&mut evidence.rewritten) {
            if !old.contains(&(line.seen.offset, line.seen.event_id.as_str())) {
                line.seen.offset += end;
            }
        }
        let new = evidence.topic.take().unwrap_or_default().into_iter();
        let new = new.map(|seen| Seen { offset: seen.offset + end, ..seen });
        evidence.topic = Some(self.topic.iter().cloned().chain(new).collect());
        self.move_commits(&mut evidence.offsets);
        move_deliveries(evidence.relay.iter_mut().flatten(), end);
        evidence.recreated_at = Some(end);
    }

    /// Moves the commits of the second life.
    pub fn move_commits(&self, offsets: &mut [OffsetsEntry]) {
        for entry in offsets.iter_mut().filter(|entry| entry.at >= self.offsets_end) {
            if let OffsetsSaid::Commit { offset, topic_id, .. } = &mut entry.said
                && topic_id.as_ref().is_none_or(|id| !self.ids.contains(id))
            {
                *offset += self.end();
            }
        }
    }
}

/// In one life the offsets of the relay's lines rise.
fn move_deliveries<'a>(said: impl Iterator<Item = &'a mut RelaySaid>, end: i64) {
    let (mut reached, mut moved) = (0, 0);
    for one in said {
        let last = match one {
            RelaySaid::Delivered { last, .. } => last,
            RelaySaid::Reconciled { end } => end,
        };
        if *last < reached {
            moved = end;
        }
        reached = *last;
        *last += moved;
        if let RelaySaid::Delivered { first, .. } = one {
            *first += moved;
        }
    }
}
