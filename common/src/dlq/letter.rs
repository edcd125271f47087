//! What a group gives up, and why.

use crate::kafka::{ConsumerRecord, Unreadable};

/// What a group has to say of an event that it gives up.
#[derive(Debug, Clone)]
pub struct Failure<'a> {
    /// The group.
    pub group: &'a str,
    /// Where the original is.
    pub topic: &'a str,
    /// Where the original is.
    pub partition: i32,
    /// The sort of error.
    pub kind: &'a str,
    /// The error.
    pub message: &'a str,
    /// How often handling was tried again after the first time.
    pub retry_count: u32,
}

/// What a group gives up.
#[derive(Debug, Clone, Copy)]
pub enum DeadLetter<'a> {
    /// A record.
    Record(&'a ConsumerRecord),
    /// Offsets that cannot be read: nothing of them can be carried along but where they are.
    Unreadable(&'a Unreadable),
}

impl<'a> DeadLetter<'a> {
    /// Its first offset.
    pub fn first_offset(self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Unreadable(range) => range.first_offset,
        }
    }

    pub(crate) fn record(self) -> Option<&'a ConsumerRecord> {
        match self {
            Self::Record(record) => Some(record),
            Self::Unreadable(_) => None,
        }
    }

    /// Milliseconds since 1970.
    pub(super) fn timestamp(self) -> i64 {
        match self {
            Self::Record(record) => record.timestamp,
            Self::Unreadable(range) => range.timestamp,
        }
    }

    pub(super) fn last_offset(self) -> Option<i64> {
        match self {
            Self::Record(_) => None,
            Self::Unreadable(range) => Some(range.last_offset),
        }
    }
}
