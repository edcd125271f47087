//! What every connection and the work in the background share.

use std::fs::File;

use crate::groups::Groups;
use crate::log::writer::WriterHandle;
use crate::producer_ids::ProducerIds;
use crate::topics::Topics;
use crate::transactions::Transactions;

/// What every connection shares.
pub(crate) struct Shared {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) cluster_id: String,
    pub(crate) auto_create_topics: bool,
    pub(crate) max_frame_bytes: usize,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) transactions: Transactions,
    pub(crate) writer: WriterHandle,
    /// Held open: its lock keeps other processes out of the data folder.
    pub(crate) lock: File,
}
