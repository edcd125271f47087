//! The mark of an embedded store whose tasks were moved into a database, or are being moved here from one. It says all that
//! the last step needs to know of the store: the database is held against it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use task_events::time::format_time;
use uuid::Uuid;

/// What is to be done, with an import as with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Look what would be done.
    Plan,
    /// Move the tasks, or finish that.
    Execute,
    /// Give up a move that is not finished.
    Cancel,
    /// Give up a move, whatever it had done: where the tasks were moved to is lost for good.
    CancelLost,
}

/// How much there is to be moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Tasks.
    pub tasks: u64,
    /// Answers under idempotency keys, of the last 24 hours about.
    pub answers: u64,
    /// Those that a former version stored.
    pub former_answers: u64,
    /// Events that wait for Kafka.
    pub events: u64,
}

/// Where the tasks of a store are in its place. While a store has one, no API serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Names the move, here and in the database.
    pub id: Uuid,
    /// The database, as far as it is no secret.
    pub to: String,
    /// When the mark was made.
    pub at: DateTime<Utc>,
    /// How much was staged in the database when the mark was made. A move whose database has less is given up.
    pub contents: Contents,
    /// The database has confirmed that it has all. Until then it may have all or nothing.
    pub is_done: bool,
    /// It is the other way round: the tasks come from the database, and all of them are here if `is_done`. The database may
    /// serve them until it is known to be closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub arrives: bool,
}

impl Moved {
    /// Whether the tasks are in the database, and nowhere else.
    pub fn is_gone(&self) -> bool {
        self.is_done && !self.arrives
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, at) = (&self.to, format_time(self.at));
        if self.arrives {
            return write!(
                f,
                "its tasks are being moved here from the {to} since {at}: finish that with `taskctl db export --execute`, or give it up with `taskctl db export --cancel`"
            );
        }
        match self.is_done {
            true => write!(
                f,
                "its tasks were moved to the {to} at {at}: set DATABASE_URL for that, or STATE_DIR to another folder"
            ),
            false => write!(
                f,
                "its tasks are being moved to the {to} since {at}: finish that with `taskctl db import --execute`, or give it up with `--cancel`"
            ),
        }
    }
}
