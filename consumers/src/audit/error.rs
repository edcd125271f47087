//! Why the audit log cannot be opened, and what damage in it is.

use std::fmt;
use std::io;
use std::path::PathBuf;

use task_events::dedup::DedupError;
use task_events::error_code::{Code, Coded};

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be opened or made.
    #[error("audit log {} cannot be opened: {source}; set AUDIT_LOG_PATH to a file in a folder that exists and that this user may write", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("audit log {} is in use by another process: stop it, or set another AUDIT_LOG_PATH (and another GROUP)", path.display())]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// It is damaged where no crash could have done it.
    #[error("audit log {} is damaged at {damage}; nothing was changed: repair it, restore it from a backup, or move the line out to another file, and its event is read again where Kafka still has it", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where and how.
        damage: Damage,
    },
    /// What follows the last whole line cannot be kept aside.
    #[error("audit log {} ends in a torn line that cannot be copied to {}: {source}; nothing is cut off before", path.display(), aside.display())]
    KeepAside {
        /// The log.
        path: PathBuf,
        /// Where to.
        aside: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading or mending it failed.
    #[error("audit log {} cannot be recovered: {source}", path.display())]
    Recover {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SIGHUP cannot be listened for.
    #[error("cannot listen for SIGHUP, by which the audit log is rotated: {source}")]
    Signal {
        /// What the system said.
        source: io::Error,
    },
    /// The key for the tree over its lines cannot be used.
    #[error("key {} cannot be used: {why}; set AUDIT_KEY_FILE to a key that `taskctl audit keygen` made, or unset it", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why not. Without its content.
        why: String,
    },
    /// A witness cannot be asked.
    #[error(
        "the witness cannot be used: {why}; look at AUDIT_WITNESS_KEY_FILE and AUDIT_WITNESS_CA_FILE, or unset AUDIT_WITNESS_URL"
    )]
    Witness {
        /// Why not.
        why: String,
    },
    /// The index cannot be used.
    #[error(transparent)]
    Index(#[from] DedupError),
}

impl Coded for AuditError {
    fn code(&self) -> Code {
        match self {
            Self::Open { .. } => Code::AuditLogOpen,
            Self::InUse { .. } => Code::AuditLogInUse,
            Self::Damaged { .. } => Code::AuditLogDamaged,
            Self::KeepAside { .. } => Code::AuditLogTail,
            Self::Recover { .. } => Code::AuditLogRecover,
            Self::Signal { .. } => Code::AuditSignal,
            Self::Key { .. } | Self::Witness { .. } => Code::AuditKey,
            Self::Index(_) => Code::DedupState,
        }
    }
}

/// Bytes in the log that are not a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The byte where they start.
    pub at: u64,
    /// The line that they would be; the first is 1.
    pub line: u64,
    /// What is wrong with them.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, line, why } = self;
        write!(f, "line {line}, byte {at}: {why}")
    }
}
