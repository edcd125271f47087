//! What the connections of one process know together: the brokers, where they are, and idle connections.
//!
//! A connection serves one call at a time. It is taken out of the pool for the call and put back only after a whole
//! answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::topic::KnownTopic;

/// Idle connections that are kept for each broker.
const MAX_IDLE: usize = 2;
/// How long one is kept: well below the ten minutes after which a broker closes it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// Brokers that are remembered. A cluster of more is asked through the first of them.
const MAX_BROKERS: usize = 1_000;

/// Shared by all clones of a [`Kafka`](super::Kafka).
#[derive(Debug, Default)]
pub(super) struct Cluster {
    state: Mutex<State>,
    /// Held by who asks for a topic on behalf of all.
    pub(super) asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Every broker that was ever discovered, with its latest address.
    pub(super) brokers: BTreeMap<i32, Arc<str>>,
    /// Those of the latest answer.
    pub(super) live: BTreeSet<i32>,
    pub(super) controller: Option<i32>,
    pub(super) topics: HashMap<String, KnownTopic>,
    pub(super) resolved: HashMap<Arc<str>, Vec<SocketAddr>>,
    idle: HashMap<Arc<str>, Vec<(Connection, Instant)>>,
    pub(super) answered_last: Option<Arc<str>>,
    /// How often any broker was asked.
    pub(super) asked: usize,
}

impl Cluster {
    /// Held for a moment only, never across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to that broker that nobody uses.
    pub(super) fn take_idle(&self, address: &Arc<str>) -> Option<Connection> {
        let mut state = self.state();
        let idle = state.idle.get_mut(address)?;
        idle.retain(|(connection, since)| since.elapsed() < MAX_IDLE_TIME && !connection.is_expired());
        idle.pop().map(|(connection, _)| connection)
    }

    /// Keeps a connection for the next call: only after a whole answer.
    pub(super) fn put_idle(&self, connection: Connection) {
        let mut state = self.state();
        let idle = state.idle.entry(Arc::clone(connection.address())).or_default();
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE_TIME);
        if idle.len() < MAX_IDLE {
            idle.push((connection, Instant::now()));
        }
    }
}

impl State {
    /// The partition's leader, as far as known.
    pub(super) fn leader_of(&self, topic: &str, partition: i32) -> Option<i32> {
        self.topics.get(topic)?.info.partition(partition)?.leader
    }

    /// Remembers the brokers of an answer.
    pub(super) fn discovered(&mut self, brokers: impl IntoIterator<Item = (i32, Arc<str>)>) {
        let brokers: Vec<_> = brokers.into_iter().collect();
        if brokers.is_empty() {
            return;
        }
        self.live = brokers.iter().map(|(id, _)| *id).collect();
        for (id, address) in brokers {
            if self.brokers.len() < MAX_BROKERS || self.brokers.contains_key(&id) {
                self.brokers.insert(id, address);
            }
        }
    }
}
