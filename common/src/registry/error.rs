//! Why a registry did not do what it was asked.

use crate::error_code::{Code, Coded};

/// Why a registry did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No address answers as a registry does: it may later.
    #[error("the Schema Registry cannot be reached: {0}")]
    Unreachable(String),
    /// It does not have that.
    #[error("{call}: the Schema Registry does not have it: {message}")]
    NotFound {
        /// What it was asked.
        call: String,
        /// What it said.
        message: String,
    },
    /// It refuses.
    #[error("{call}: the Schema Registry refuses ({status}, code {code}): {message}")]
    Refused {
        /// What it was asked.
        call: String,
        /// The HTTP status.
        status: u16,
        /// Its own code.
        code: i64,
        /// What it said.
        message: String,
    },
    /// The schema is none of Avro's.
    #[error("{call}: the schema is {kind}, not AVRO")]
    Kind {
        /// What it was asked.
        call: String,
        /// What it is.
        kind: String,
    },
}

impl RegistryError {
    /// The registry has no such schema, subject or version.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The same call may succeed later, with nothing changed but the registry's health.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// The registry refuses a schema that cannot follow those that are there.
    pub fn is_incompatible(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl Coded for RegistryError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable(_) => Code::RegistryUnreachable,
            Self::NotFound { .. } => Code::SchemaNotFound,
            Self::Refused { status: 409, .. } => Code::SchemaIncompatible,
            Self::Refused { .. } => Code::RegistryRefused,
            Self::Kind { .. } => Code::SchemaUnusable,
        }
    }
}
