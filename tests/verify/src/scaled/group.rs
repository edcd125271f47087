//! The groups of consumers.

use serde::{Deserialize, Serialize};

/// A group of consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// `notification-service`.
    Notification,
    /// `audit-service`.
    Audit,
    /// `dlq-processor`.
    Dlq,
}

impl Group {
    /// All.
    pub const ALL: [Self; 3] = [Self::Notification, Self::Audit, Self::Dlq];

    /// Its name, which is that of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notification => "notification-service",
            Self::Audit => "audit-service",
            Self::Dlq => "dlq-processor",
        }
    }
}
