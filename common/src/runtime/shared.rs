//! What a consumer is given, and what the workers of all its partitions share.

use std::time::Duration;

use tokio::time::Instant;

use super::acknowledged::Acknowledged;
use super::handler::Service;
use super::membership::Membership;
use super::owner_id::{OwnerId, Parts, Progress};
use super::status::Status;
use crate::dlq::DlqPublisher;
use crate::kafka::{Kafka, TopicReader};
use crate::offsets::roster::{Asker, Roster};
use crate::offsets::{Commit, OffsetsLog, Slot, View};
use crate::shutdown::Shutdown;
use crate::state_dir::Identity;

/// A lease that a busy machine or a slow broker does not outlast, and that a standby can wait for.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// What a consumer reads, and as whom.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How to reach Kafka.
    pub kafka: Kafka,
    /// The topic to read.
    pub topic: String,
    /// The compacted topic of claims and commits.
    pub offsets_topic: String,
    /// Where events go that cannot be handled; `None`: they are logged and passed over.
    pub dlq_topic: Option<String>,
    /// The consumer group.
    pub group: String,
    /// The service: a group belongs to one.
    pub service: String,
    /// This instance; outlives its restarts.
    pub identity: Identity,
    /// Where it runs, for people.
    pub host: String,
    /// How long this instance may be silent before another takes over.
    pub lease: Duration,
    /// What an operator can do where the group belongs to another service, in the words of the program's own
    /// tools. It ends the line that refuses the group.
    pub foreign_group_hint: Option<String>,
}

impl ConsumerConfig {
    /// A group that reads a topic, with names and times as most want them: offsets in `{topic}-offsets`, dead
    /// letters in `{topic}-dlq`, the group's name as its service's, a lease of 10 s.
    pub fn new(kafka: Kafka, topic: &str, group: &str, identity: Identity) -> Self {
        Self {
            kafka,
            topic: topic.to_owned(),
            offsets_topic: format!("{topic}-offsets"),
            dlq_topic: Some(format!("{topic}-dlq")),
            group: group.to_owned(),
            service: group.to_owned(),
            identity,
            host: format!("process {}", std::process::id()),
            lease: DEFAULT_LEASE,
            foreign_group_hint: None,
        }
    }
}

/// What the workers of all partitions share.
pub(super) struct Shared<S> {
    pub(super) config: ConsumerConfig,
    pub(super) offsets: OffsetsLog,
    pub(super) reader: TopicReader,
    pub(super) service: S,
    pub(super) dlq: Option<DlqPublisher>,
    pub(super) status: Status,
    pub(super) acknowledged: Acknowledged,
    pub(super) membership: Membership,
    pub(super) shutdown: Shutdown,
}

impl<S> Shared<S> {
    /// The group as the offsets topic says now.
    pub(super) fn roster(&self, view: &View, now: Instant) -> Roster {
        let (config, membership) = (&self.config, &self.membership);
        let asker = Asker { instance_id: config.identity.id(), accepts: membership.accepts() };
        let partitions = membership.partitions();
        Roster::of(view, &config.group, &config.topic, partitions, Some(asker), now)
    }
}

impl<S: Service> Shared<S> {
    /// A commit of what an ownership has done, with what the service keeps beside it.
    pub(super) fn commit(
        &self,
        slot: &Slot,
        id: &OwnerId,
        progress: Progress,
        parts: Option<&Parts>,
    ) -> Commit {
        let before = || {
            let view = self.offsets.view();
            let view = view.borrow();
            let last = view.slot(slot).and_then(|state| state.last_commit());
            last.map(|(_, commit)| commit.meta.clone()).unwrap_or_default()
        };
        let meta = self.service.commit_meta(&slot.topic, slot.partition, before);
        let commit = Commit::at(progress.position, id.instance_id, false).with_meta(meta);
        commit.with_done_by(&id.done_at(progress, parts))
    }
}
