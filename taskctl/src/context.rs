//! What every command is given.

use task_events::config::TopicArgs;
use task_events::kafka::Kafka;

use crate::Format;

/// How to reach Kafka, what the topics are called, and how to answer.
#[derive(Debug)]
pub struct Context {
    /// Makes connections.
    pub kafka: Kafka,
    /// The names of the topics.
    pub topics: TopicArgs,
    /// Form of the answer.
    pub format: Format,
}

impl Context {
    /// A context for one command.
    pub fn new(kafka: Kafka, topics: TopicArgs, format: Format) -> Self {
        Self { kafka, topics, format }
    }
}
