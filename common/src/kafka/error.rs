//! What went wrong with a call to Kafka, sorted by what the caller can do.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use rskafka::client::error::{Error as ClientError, ProtocolError};

use super::position::Jump;
use crate::error_code::{Code, Coded};

/// A call to Kafka that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// The topic does not exist.
    #[error("topic {topic} does not exist: {hint}")]
    UnknownTopic {
        /// The topic.
        topic: String,
        /// How to create it: see [`Kafka::with_missing_topic_hint`](super::Kafka::with_missing_topic_hint).
        hint: Arc<str>,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has no partition {partition}: it has {count}, numbered from 0")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: i32,
        /// How many it has.
        count: usize,
    },
    /// The log does not go on at the offset that was to be read.
    #[error("{call}: {jump}")]
    Jumped {
        /// The call and what it was about.
        call: String,
        /// From where to where, and why.
        jump: Jump,
    },
    /// The offset is below the log's start or beyond its end.
    #[error("{call}: offset out of range")]
    OffsetOutOfRange {
        /// The call and what it was about.
        call: String,
    },
    /// A record's time is too far from the broker's, by the topic's message.timestamp.after.max.ms or
    /// message.timestamp.before.max.ms. Nothing of the batch has landed.
    #[error("{call}: the records' times are too far from the broker's: one of the two clocks is wrong")]
    InvalidTimestamp {
        /// The call and what it was about.
        call: String,
    },
    /// The batch is larger than the topic's max.message.bytes.
    #[error("{call}: larger than the topic's max.message.bytes")]
    MessageTooLarge {
        /// The call and what it was about.
        call: String,
    },
    /// The broker refused the call as a whole: nothing has landed, and nothing will.
    #[error("{call}: {reason}")]
    Refused {
        /// The call and what it was about.
        call: String,
        /// What the broker said.
        reason: String,
    },
    /// No TLS connection: of the two certificates one is not accepted, or only one side speaks TLS. Nothing was sent.
    // It has its code in its text: these are logged as warnings while a service waits.
    #[error("{call}: {reason} {}", Code::KafkaTls)]
    Tls {
        /// The call and what it was about.
        call: String,
        /// Why.
        reason: String,
    },
    /// The broker refused the login, or did not prove that it knows the password. Nothing else was sent.
    #[error("{call}: {reason} {}", Code::KafkaLogin)]
    LoginRefused {
        /// The call and what it was about.
        call: String,
        /// Why.
        reason: String,
    },
    /// No answer in time. A produce may have landed all the same, or may land later.
    #[error("{call}: no answer within {} s", after.as_secs_f32())]
    Timeout {
        /// The call and what it was about.
        call: String,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else; a produce may have landed.
    #[error("{call}: {detail}")]
    Failed {
        /// The call and what it was about.
        call: String,
        /// What the client or the broker said.
        detail: String,
    },
}

impl Coded for KafkaError {
    fn code(&self) -> Code {
        match self {
            Self::UnknownTopic { .. } => Code::UnknownTopic,
            Self::UnknownPartition { .. } => Code::UnknownPartition,
            Self::Jumped { .. } | Self::OffsetOutOfRange { .. } => Code::OffsetOutOfRange,
            Self::InvalidTimestamp { .. } | Self::MessageTooLarge { .. } => Code::RecordRefused,
            Self::Refused { .. } => Code::KafkaRefused,
            Self::Tls { .. } => Code::KafkaTls,
            Self::LoginRefused { .. } => Code::KafkaLogin,
            Self::Timeout { .. } | Self::Failed { .. } => Code::KafkaUnreachable,
        }
    }
}

impl KafkaError {
    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::UnknownTopic { topic: topic.to_owned(), hint: "create it".into() }
    }

    pub(crate) fn failed(call: impl Into<String>, detail: impl ToString) -> Self {
        Self::Failed { call: call.into(), detail: detail.to_string() }
    }

    /// Kafka was unreachable, and did not answer when it was reachable again.
    pub(super) fn lost(call: String) -> Self {
        Self::Failed {
            call,
            detail: "no answer, though Kafka has answered others since: it was lost on the way".to_owned(),
        }
    }

    /// Sorts an error of rskafka.
    pub(super) fn from_client(call: String, topic: &str, error: &ClientError) -> Self {
        match protocol_error(error) {
            Some(ProtocolError::UnknownTopicOrPartition) => return Self::unknown_topic(topic),
            Some(ProtocolError::OffsetOutOfRange) => return Self::OffsetOutOfRange { call },
            Some(ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge) => {
                return Self::MessageTooLarge { call };
            }
            Some(ProtocolError::InvalidTimestamp) => return Self::InvalidTimestamp { call },
            Some(
                // Before anything is appended. NOT_LEADER_OR_FOLLOWER and UNKNOWN_TOPIC_OR_PARTITION are none of
                // these: a leader that hands over answers so what it has appended.
                refusal @ (ProtocolError::NotEnoughReplicas
                | ProtocolError::TopicAuthorizationFailed
                | ProtocolError::ClusterAuthorizationFailed
                | ProtocolError::InvalidRecord
                | ProtocolError::CorruptMessage
                | ProtocolError::PolicyViolation),
            ) => {
                let reason = match refusal {
                    ProtocolError::NotEnoughReplicas => {
                        "fewer replicas are in sync than the topic's min.insync.replicas".to_owned()
                    }
                    ProtocolError::TopicAuthorizationFailed => {
                        "this user may not write to the topic: grant Write on it".to_owned()
                    }
                    other => format!("the broker answered {other:?}"),
                };
                return Self::Refused { call, reason };
            }
            Some(other) => return Self::failed(call, format!("the broker answered {other:?}")),
            None => {}
        }
        Self::failed(call, innermost(error))
    }

    /// Its text, for a list of several that ends with one code.
    pub(super) fn without_code(&self) -> String {
        match self {
            Self::Tls { call, reason } | Self::LoginRefused { call, reason } => format!("{call}: {reason}"),
            other => other.to_string(),
        }
    }

    /// Whether a certificate or a login was refused.
    pub(super) fn is_of_security(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::LoginRefused { .. })
    }

    /// An error with another text, of the same kind where a certificate or a login was refused.
    pub(super) fn with_reason(&self, call: String, reason: String) -> Self {
        match self {
            Self::Tls { .. } => Self::Tls { call, reason },
            Self::LoginRefused { .. } => Self::LoginRefused { call, reason },
            _ => Self::failed(call, reason),
        }
    }

    /// Whether a produce that failed so has certainly not landed, and will not.
    pub fn nothing_landed(&self) -> bool {
        matches!(
            self,
            Self::MessageTooLarge { .. }
                | Self::InvalidTimestamp { .. }
                | Self::Refused { .. }
                | Self::UnknownPartition { .. }
        )
    }

    /// Whether a broker answered, be it with a refusal.
    pub fn is_answer(&self) -> bool {
        !matches!(
            self,
            Self::Timeout { .. } | Self::Failed { .. } | Self::Tls { .. } | Self::LoginRefused { .. }
        )
    }

    /// Whether the connection is still good: the broker answered in full and in order.
    pub(super) fn connection_is_good(&self) -> bool {
        matches!(
            self,
            Self::OffsetOutOfRange { .. } | Self::MessageTooLarge { .. } | Self::InvalidTimestamp { .. }
        )
    }
}

/// The broker's error code, however deep rskafka's retry loop wrapped it.
fn protocol_error(error: &ClientError) -> Option<ProtocolError> {
    chain(error).find_map(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::ServerError { protocol_error, .. }) => Some(*protocol_error),
        _ => None,
    })
}

/// The text of the innermost cause: the layers above it only repeat it.
fn innermost(error: &ClientError) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}
