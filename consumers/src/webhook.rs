//! The webhook notifier: a signed POST for each new and each completed task, in place of a line.
//!
//! | file | what |
//! | --- | --- |
//! | `signature` | Standard Webhooks: HMAC-SHA256, several secrets |
//! | `exchange` | one delivery, and what its answer means; which addresses may be called |
//! | `queue` | the events of a partition that are on their way, in order for each task |
//! | `shared` | what all partitions share: pauses, the state of the endpoint |
//! | `counts` | what is counted of them |
//!
//! # Invariants
//!
//! - *At least once, in order for each task.* `webhook-id` is the event's id, the same at each try, so that a receiver knows
//!   a repeat.
//! - *A task whose webhook fails delays only that task*; the committed position stays below its event until it was
//!   delivered, or its dead letter acknowledged.
//! - *No try begins without a valid lease*: an instance that was paused for an hour, or is cut off from Kafka, sends nothing
//!   that another one may have sent.
//! - *A hand-over and a stop cut no try that ends in time*, and what it delivered is known by its id. What was delivered
//!   above the position is repeated by another instance, since ids are known to this one alone.

mod counts;
mod exchange;
mod queue;
mod shared;
mod signature;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use task_events::dedup::{Dedup, DedupError, Retention};
use task_events::error_code::{Code, Coded};
use task_events::event::{Event, EventType, Malformed};
use task_events::kafka::ConsumerRecord;
use task_events::metrics::Text;
use task_events::runtime::{Decoder, Delivery, Done, GivenUp, Handler, HandlerError, Lease, Service};
use task_events::schemas::EventReader;
use task_events::tls::{Tls, TlsFiles, TlsVariables};
use task_events::watched_file::{FileError, WatchedFile};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::metrics::no_warnings;
use crate::notification::KEEP_IDS;
use crate::service::Opened;

pub use shared::Config;

use exchange::Endpoint;
use queue::{Item, Queue};
use shared::Shared;
use signature::Secrets;

/// The variable of the CAs of an https address.
const VARIABLES: TlsVariables = TlsVariables { ca: "WEBHOOK_CA_FILE", identity: None };

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The dedup state cannot be used.
    #[error("{0}; without this state the service may repeat webhooks since its last commit")]
    Dedup(#[from] DedupError),
    /// The secrets cannot be used.
    #[error("{0}; no webhook could be signed")]
    Secrets(#[from] FileError),
    /// The CAs cannot be used.
    #[error("{0}; no webhook could be sent")]
    Certificates(String),
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::Dedup(_) => Code::DedupState,
            Self::Secrets(_) | Self::Certificates(_) => Code::WebhookSecrets,
        }
    }
}

/// Opens the service with its state in that folder. Blocks.
pub fn open(
    state_dir: &Path,
    config: Config,
    secrets: &Path,
    reader: EventReader,
) -> Result<Opened<Webhooks>, OpenError> {
    let secrets = WatchedFile::open("WEBHOOK_SECRET_FILE", secrets, Secrets::parse)?;
    let Config { url, ca, allowed, tries } = config;
    let tls = match (url.has_tls(), ca) {
        (true, ca) => {
            let files = TlsFiles { ca, identity: None, variables: &VARIABLES };
            Some(Tls::load(files).map_err(OpenError::Certificates)?)
        }
        (false, None) => None,
        (false, Some(_)) => {
            return Err(OpenError::Certificates(format!(
                "{} needs an https address in WEBHOOK_URL",
                VARIABLES.ca
            )));
        }
    };
    let shared = Arc::new(Shared::new(Endpoint { url, tls, allowed }, tries, secrets));
    let counted = Arc::clone(&shared);
    let dedup = Dedup::open(&state_dir.join("dedup"), Retention::Window(KEEP_IDS))?;
    let service = Webhooks { dedup, reader, shared };
    let metrics = Box::new(move |text: &mut Text| counted.counts.render(text));
    Ok(Opened { service, at_end: Box::new(|| {}), metrics, warnings: no_warnings() })
}

/// Sends webhooks.
#[derive(Debug)]
pub struct Webhooks {
    dedup: Dedup,
    reader: EventReader,
    shared: Arc<Shared>,
}

/// Sends the webhooks of one partition.
pub struct PartitionWebhooks {
    dedup: Dedup,
    reader: EventReader,
    shared: Arc<Shared>,
    queue: Queue,
}

/// Makes webhooks of events.
#[derive(Debug)]
pub struct EventDecoder {
    dedup: Dedup,
    reader: EventReader,
}

/// An event, and what is to be sent of it.
#[derive(Debug)]
pub struct Webhook {
    event_id: Uuid,
    /// The task and the body. None: the event is not of interest.
    send: Option<(Uuid, Bytes)>,
}

impl Service for Webhooks {
    type Handler = PartitionWebhooks;

    async fn open(&self, _: &str, _: i32) -> Result<PartitionWebhooks, HandlerError> {
        let shared = Arc::clone(&self.shared);
        let queue = Queue::new(Arc::clone(&shared));
        Ok(PartitionWebhooks { dedup: self.dedup.clone(), reader: self.reader.clone(), shared, queue })
    }
}

impl Decoder for EventDecoder {
    type Message = Webhook;

    fn needs(&self, record: &ConsumerRecord) -> bool {
        self.reader.wants(record.value.as_deref()).is_some()
    }

    async fn prepare(&self, record: &ConsumerRecord) -> Result<(), HandlerError> {
        self.reader.prepare(record.value.as_deref()).await
    }

    fn decode(&self, record: &ConsumerRecord) -> Result<Webhook, Malformed> {
        let event = self.reader.read(record.value.as_deref())?;
        Ok(Webhook { event_id: event.event_id, send: body(&event) })
    }

    fn dedup_id(&self, webhook: &Webhook) -> Option<Uuid> {
        Some(webhook.event_id)
    }

    fn wants(&self, webhook: &Webhook) -> bool {
        webhook.send.is_some()
    }

    async fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.dedup.known(ids.to_vec()).await.map_err(|error| HandlerError::new("dedup", error))
    }
}

impl Handler for PartitionWebhooks {
    type Decoder = EventDecoder;

    fn decoder(&self) -> EventDecoder {
        EventDecoder { dedup: self.dedup.clone(), reader: self.reader.clone() }
    }

    fn trouble(&self) -> Option<String> {
        self.shared
            .is_gone()
            .then(|| "WEBHOOK_URL is gone (410): events go to the DLQ until another one is set".to_owned())
    }

    async fn handle(&mut self, delivery: &Delivery<'_, Webhook>) -> Result<(), HandlerError> {
        let Webhook { event_id, send } = delivery.message;
        if let Some((task_id, body)) = send {
            let (event_id, task_id, body) = (*event_id, *task_id, Bytes::clone(body));
            self.queue.push(Item { event_id, task_id, body, record: delivery.record.detached() });
        }
        Ok(())
    }

    /// Makes durable which events were delivered; those that are not are pending, and no work of this batch.
    async fn flush(&mut self, _: &Done<'_>) -> Result<u64, HandlerError> {
        let delivered = self.queue.delivered();
        if !delivered.is_empty() {
            let ids = delivered.iter().map(|(_, id)| *id).collect();
            self.dedup.record(ids, None).await.map_err(|error| HandlerError::new("dedup", error))?;
            self.queue.are_durable(&delivered);
        }
        self.queue.room().await?;
        Ok(0)
    }

    fn owned(&mut self, lease: Lease) {
        self.queue.owned(lease);
    }

    fn ended(&self) -> Option<Arc<Notify>> {
        Some(self.queue.ended())
    }

    fn first_pending(&self) -> Option<i64> {
        self.queue.first_pending()
    }

    fn close(&mut self) -> bool {
        self.queue.close()
    }

    fn take_given_up(&mut self) -> Vec<GivenUp> {
        self.queue.take_given_up()
    }

    fn is_dead_letter(&mut self, given_up: &GivenUp) {
        self.queue.is_dead_letter(given_up);
    }
}

/// The task of an event, and the body of its webhook, if it has one.
fn body(event: &Event<'_>) -> Option<(Uuid, Bytes)> {
    match event.known_type()? {
        EventType::Created | EventType::Completed => {}
        EventType::Updated | EventType::Deleted => return None,
    }
    let task = event.task.as_ref()?;
    let text = |text: &str| serde_json::Value::from(text);
    let body = format!(
        r#"{{"type":{},"timestamp":{},"data":{},"metadata":{}}}"#,
        text(&event.event_type),
        text(&event.occurred_at),
        event.data,
        event.metadata
    );
    Some((task.task_id, body.into()))
}
