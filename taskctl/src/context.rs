//! What every command is given.

use task_events::config::{KafkaArgs, TopicArgs};
use task_events::deferred::Deferred;
use task_events::error_code::Code;
use task_events::kafka::{Kafka, KafkaError};
use task_events::offsets::OffsetsLog;
use task_events::registry::Registry;
use task_events::registry_args::RegistryArgs;
use task_events::schemas::EventReader;

use crate::{Error, Format};

/// What to do about a topic that does not exist.
const MISSING_TOPIC_HINT: &str = "create it with `taskctl topics create`";

/// What was configured, also where a file of it cannot be used.
#[derive(Debug)]
pub struct Setup {
    /// How to reach Kafka.
    pub kafka: Deferred<KafkaArgs>,
    /// The names of the topics.
    pub topics: TopicArgs,
    /// How to reach the Schema Registry.
    pub registry: Deferred<RegistryArgs>,
    /// Form of the answer.
    pub format: Format,
}

impl Setup {
    /// What a command works with, if it can be used.
    pub fn context(&self) -> Result<Context, Error> {
        let unusable = |why: &String| Error::Refused(Code::File, why.clone());
        let kafka = self.kafka.0.as_ref().map_err(unusable)?;
        let registry = self.registry.0.as_ref().map_err(unusable)?;
        Ok(Context::new(kafka, self.topics.clone(), Some(registry), self.format))
    }

    /// The same, without the registry where that cannot be used. None: Kafka cannot.
    pub fn context_as_far_as_it_goes(&self) -> Option<Context> {
        let (kafka, registry) = (self.kafka.0.as_ref().ok()?, self.registry.0.as_ref().ok());
        Some(Context::new(kafka, self.topics.clone(), registry, self.format))
    }

    /// What cannot be used, and what it is for.
    pub fn unusable(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let of_kafka = self.kafka.0.as_ref().err().map(|why| ("connections to Kafka", why.as_str()));
        let of_registry = self.registry.0.as_ref().err().map(|why| ("Schema Registry", why.as_str()));
        of_kafka.into_iter().chain(of_registry)
    }
}

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
    fn new(kafka: &KafkaArgs, topics: TopicArgs, registry: Option<&RegistryArgs>, format: Format) -> Self {
        let kafka = kafka.kafka("taskctl").with_missing_topic_hint(MISSING_TOPIC_HINT);
        let events = registry.map_or_else(EventReader::json, |registry| registry.reader(None));
        Self { kafka, topics, registry: registry.and_then(RegistryArgs::registry), events, format }
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
