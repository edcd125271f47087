//! Where a reader is, and how it got elsewhere.

use std::fmt;

use uuid::Uuid;

/// Where to read next, and in which life of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The offset to read next.
    pub offset: i64,
    /// The leader epoch of the record before it, by which a log that was cut and has grown again is told
    /// from the one that was read; `None` if unknown.
    pub leader_epoch: Option<i32>,
    /// The id of the topic that was read; `None` if unknown.
    pub topic_id: Option<Uuid>,
}

impl Position {
    /// A position of which nothing but the offset is known.
    pub fn at(offset: i64) -> Self {
        Self { offset, ..Self::default() }
    }
}

/// The log no longer goes on at the position that was to be read: reading goes on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The offset that was to be read next.
    pub from: i64,
    /// The offset that is read next instead.
    pub to: i64,
    /// The id of the topic from now on; `None` where the broker has none.
    pub topic_id: Option<Uuid>,
    /// Why.
    pub reason: JumpReason,
}

/// Why a log does not go on where it was read to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JumpReason {
    /// The topic was deleted and created again: all that was in the old one and unread is lost. `to` is the
    /// start of the new one.
    Recreated,
    /// The log lost its end, by an unclean election or a disk that was restored. `to` is where it was cut:
    /// the offsets from there up to `from` were read and are gone, or are others now.
    Truncated,
    /// The records from `from` to before `to`, the start of the log, were deleted before they were read.
    Retention,
    /// The position is beyond the end of the log, and no leader epoch tells where the log was cut. `to` is
    /// the start of the log: to read twice is better than not to read.
    BeyondEnd,
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = self;
        match self.reason {
            JumpReason::Recreated => write!(
                f,
                "the topic was deleted and created again: what followed offset {from} of the old one is lost, reading continues at the start of the new one, offset {to}"
            ),
            JumpReason::Truncated => write!(
                f,
                "the log was truncated: offsets {to} to {} were read and are no longer what they were, reading continues at offset {to}",
                from - 1
            ),
            JumpReason::Retention => write!(
                f,
                "offsets {from} to {} ({} records at most) were deleted before they were read, reading continues at offset {to}",
                to - 1,
                to - from
            ),
            JumpReason::BeyondEnd => write!(
                f,
                "the position {from} is beyond the end of the log, which was truncated or restored: reading continues at its start, offset {to}"
            ),
        }
    }
}
