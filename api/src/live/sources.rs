//! Where the live page's data come from.

use std::fmt;

use task_events::config::TopicArgs;
use task_events::kafka::Kafka;
use task_events::schemas::EventReader;
use tokio::sync::watch;

use crate::relay::RelayState;
use crate::store::Store;

/// What is asked, and what it is about.
pub struct Sources {
    /// Makes connections: a reader's own, which end with it.
    pub kafka: Box<dyn Fn() -> Kafka + Send + Sync>,
    /// The names of the topics.
    pub topics: TopicArgs,
    /// Reads events of either format.
    pub events: EventReader,
    /// Counters of the store and its outbox.
    pub store: Store,
    /// The relay's state: whether Kafka is reachable.
    pub relay: watch::Receiver<RelayState>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("topics", &self.topics).finish_non_exhaustive()
    }
}
