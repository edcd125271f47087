//! Why lines were not written to the log, or not acknowledged.

use std::io;
use std::path::PathBuf;

use super::AuditError;
use super::scan::ScanError;

/// What a full disk means, and what to do.
const FULL: &str = "; free space on its disk: nothing is committed until then, and Kafka deletes waiting events once they are older than the topic's retention";

/// Why nothing was acknowledged.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("cannot write audit log {}: {source}{}", path.display(), if source.kind() == io::ErrorKind::StorageFull { FULL } else { "" })]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot check audit log {}: {source}", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("cannot bring the index up to date with audit log {}: {source}", path.display())]
    CatchUp { path: PathBuf, source: ScanError },
    #[error("cannot rotate audit log {}: {source}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Recover(#[from] AuditError),
    /// Lines are missing from the file: reading has to go on from the position that the next start finds.
    #[error("{missing}")]
    Reread { missing: String },
}
