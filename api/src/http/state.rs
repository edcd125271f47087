//! What the handlers share.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::connection::Connections;
use super::edge::Edge;
use super::guard::{AllowedHosts, Hosts};
use super::problem::Problem;
use super::requests::Requests;
use crate::live::Live;
use crate::relay::RelayState;
use crate::store::Store;

/// Memory for pages of tasks, from reading them until the client has taken them, in KiB.
const PAGES_KIB: usize = 64 * 1024;
/// A task at its largest in that memory: as itself and as JSON, with a title of 500 characters of 4 bytes.
const TASK_KIB: usize = 5;
/// Time for a page to wait for memory.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers share. Cheap to clone; each worker has its own.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) live: Live,
    pub(super) store: Store,
    pub(super) relay: watch::Receiver<RelayState>,
    /// Idempotency keys of requests under way.
    pub(super) running: Arc<Mutex<HashSet<String>>>,
    pub(super) connections: Arc<Connections>,
    pub(super) hosts: Hosts,
    pub(super) requests: Requests,
    /// `None` where nothing of it is configured, so that a request costs nothing more.
    pub(super) edge: Option<Arc<Edge>>,
    /// KiB for pages of tasks that are read and sent.
    page_memory: Arc<Semaphore>,
}

impl State {
    /// What the handlers of a server on the address `bound` need. At most `connections` are open at one
    /// time; further ones are answered 503.
    pub fn new(
        store: Store,
        relay: watch::Receiver<RelayState>,
        connections: usize,
        bound: IpAddr,
        allowed_hosts: AllowedHosts,
        live: Live,
    ) -> Self {
        Self {
            live,
            store,
            relay,
            running: Arc::default(),
            connections: Arc::new(Connections::new(connections)),
            hosts: Hosts::new(bound, allowed_hosts),
            requests: Requests::default(),
            edge: None,
            page_memory: Arc::new(Semaphore::new(PAGES_KIB)),
        }
    }

    /// The same behind an edge.
    pub fn behind(self, edge: Edge) -> Self {
        Self { edge: (!edge.is_open()).then(|| Arc::new(edge)), ..self }
    }

    /// Waits for memory to read a page in, and to send it.
    pub(super) async fn memory_for_tasks(&self, tasks: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = u32::try_from((tasks + 1) * TASK_KIB).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.page_memory).acquire_many_owned(kib);
        match timeout(PAGE_TIMEOUT, memory).await {
            Ok(Ok(memory)) => Ok(memory),
            _ => Err(Problem::overloaded()),
        }
    }
}
