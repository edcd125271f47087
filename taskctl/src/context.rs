//! What every command is given.

use task_events::config::TopicArgs;
use task_events::error_code::Code;
use task_events::kafka::{Kafka, KafkaError};
use task_events::offsets::OffsetsLog;
use task_events::registry::Registry;
use task_events::registry_args::RegistryArgs;
use task_events::schemas::EventReader;

use crate::{Error, Format};

/// How to reach Kafka, what the topics are called, and how to answer.
#[derive(Debug)]
pub struct Context {
    /// Makes connections.
    pub kafka: Kafka,
    /// The names of the topics.
    pub topics: TopicArgs,
    /// The Schema Registry, if one is configured.
    pub registry: Option<Registry>,
    /// Reads events of either format.
    pub events: EventReader,
    /// Form of the answer.
    pub format: Format,
}

impl Context {
    /// A context for one command.
    pub fn new(kafka: Kafka, topics: TopicArgs, registry: &RegistryArgs, format: Format) -> Self {
        Self { kafka, topics, registry: registry.registry(), events: registry.reader(None), format }
    }

    /// The offsets topic, followed from its start. A topic that is missing is an error at once.
    pub async fn offsets(&self) -> Result<OffsetsLog, KafkaError> {
        self.kafka.partition_count(&self.topics.offsets_topic).await?;
        Ok(OffsetsLog::open(&self.kafka, &self.topics.offsets_topic))
    }

    /// The error for a group of which the offsets topic knows nothing.
    pub fn unknown_group(&self, group: &str) -> Error {
        let topic = &self.topics.offsets_topic;
        Error::Refused(
            Code::UnknownGroup,
            format!("topic {topic} knows no group {group}: see `taskctl groups list`"),
        )
    }
}
