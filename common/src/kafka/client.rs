//! A cluster, as one process knows it: where to begin, who it is, and what its calls have found out together. What
//! it can be asked is in the files of the questions.

use std::sync::Arc;

use super::KafkaError;
use super::cluster::Cluster;
use super::presence::Presence;
use super::sasl::Sasl;
use crate::tls::Tls;

/// A cluster, as one process knows it. Cheap to clone: all clones share what they have found out.
#[derive(Debug, Clone)]
pub struct Kafka {
    pub(super) bootstrap: Arc<[Arc<str>]>,
    pub(super) client_id: Arc<str>,
    pub(super) sasl: Option<Arc<Sasl>>,
    pub(super) tls: Option<Tls>,
    missing_topic_hint: Option<Arc<str>>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) presence: Arc<Presence>,
}

impl Kafka {
    /// `bootstrap`: host:port of brokers to ask first. `client_id`: how this process is called in the
    /// broker's logs and quotas.
    pub fn new(bootstrap: Vec<String>, client_id: &str) -> Self {
        Self {
            bootstrap: bootstrap.into_iter().map(Arc::from).collect(),
            client_id: client_id.into(),
            sasl: None,
            tls: None,
            missing_topic_hint: None,
            cluster: Arc::default(),
            presence: Arc::default(),
        }
    }

    /// The same, logging in at each connection.
    pub fn with_sasl(self, sasl: Option<Sasl>) -> Self {
        Self { sasl: sasl.map(Arc::new), ..self }
    }

    /// The same, with TLS on each connection.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// The same, with what to do about a topic that does not exist, in the words of the program's own tools:
    /// "create it with `…`". It ends the text of [`KafkaError::UnknownTopic`].
    pub fn with_missing_topic_hint(self, hint: &str) -> Self {
        Self { missing_topic_hint: Some(hint.into()), ..self }
    }

    /// Adds the hint to an error that wants it.
    pub(super) fn hinted(&self, error: KafkaError) -> KafkaError {
        match (error, &self.missing_topic_hint) {
            (KafkaError::UnknownTopic { topic, .. }, Some(hint)) => {
                KafkaError::UnknownTopic { topic, hint: Arc::clone(hint) }
            }
            (error, _) => error,
        }
    }

    pub(crate) fn unknown_topic(&self, topic: &str) -> KafkaError {
        self.hinted(KafkaError::unknown_topic(topic))
    }

    /// TLS, if connections use it.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether connections log in.
    pub fn logs_in(&self) -> bool {
        self.sasl.is_some()
    }

    /// The brokers that are asked first, for messages.
    pub fn bootstrap(&self) -> String {
        self.bootstrap.join(",")
    }
}
