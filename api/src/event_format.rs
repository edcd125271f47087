//! How events are encoded: what the process is configured to, and what each stored event is.

use std::sync::OnceLock;

use task_events::avro::{self, Plan, REVISION, Schema, TASK_EVENT, Wire, revision_schema};
use task_events::event::{JSON_CONTENT_TYPE, TaskEvent};

/// How events are encoded that are made from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EventFormat {
    /// As JSON.
    #[default]
    Json,
    /// As Avro, under the id that the registry has given to our schema.
    Avro {
        /// The id.
        schema_id: u32,
    },
}

/// How one event is encoded, which its bytes alone do not say: by which of our schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As JSON.
    Json,
    /// As Avro.
    Avro {
        /// The revision of our schema, from 1.
        revision: u8,
    },
}

impl EventFormat {
    /// The bytes of an event, which it has from now on, and their encoding.
    pub fn encode(self, event: &TaskEvent) -> Result<(Vec<u8>, Encoding), String> {
        match self {
            Self::Json => {
                let mut json = Vec::with_capacity(JSON_BYTES);
                serde_json::to_writer(&mut json, event).map_err(|error| error.to_string())?;
                Ok((json, Encoding::Json))
            }
            Self::Avro { schema_id } => {
                Ok((avro::encode(event, schema_id)?, Encoding::Avro { revision: REVISION }))
            }
        }
    }
}

/// What an event with a title of usual length has as JSON.
const JSON_BYTES: usize = 512;

impl Encoding {
    /// The number under which it is stored: 0 is JSON.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Avro { revision } => revision,
        }
    }

    /// The encoding of that number.
    pub(crate) fn from_number(number: u8) -> Self {
        if number == 0 { Self::Json } else { Self::Avro { revision: number } }
    }

    /// The `content-type` header of a record.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON_CONTENT_TYPE,
            Self::Avro { .. } => avro::CONTENT_TYPE,
        }
    }

    /// The event of bytes that this program wrote, or one before it.
    pub(crate) fn decode(self, payload: &[u8]) -> Result<TaskEvent, String> {
        let Self::Avro { revision } = self else {
            return serde_json::from_slice(payload).map_err(|error| error.to_string());
        };
        let plan = plan(revision)?;
        let Wire::Avro(id, data) = Wire::of(payload) else { return Err("it is not Avro".to_owned()) };
        plan.read(id, data)?.to_task_event().ok_or_else(|| "it is not an event of a task".to_owned())
    }
}

/// How events of a revision of our schema are read: made once, since a whole outbox may be read back.
fn plan(revision: u8) -> Result<&'static Plan, String> {
    static PLANS: [OnceLock<Result<Plan, String>>; REVISION as usize] =
        [const { OnceLock::new() }; REVISION as usize];
    let made = usize::from(revision).checked_sub(1).and_then(|index| PLANS.get(index));
    let (Some(made), Some(writer)) = (made, revision_schema(revision)) else {
        return Err(format!("it is of revision {revision} of the schema: start the version that wrote it"));
    };
    let schema = |text| Schema::parse(text).map_err(|error| error.to_string());
    let plan = made.get_or_init(|| Plan::new(&schema(writer)?, &schema(TASK_EVENT)?));
    plan.as_ref().map_err(String::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_events::event::TaskData;
    use uuid::Uuid;

    #[test]
    fn an_event_comes_back_from_its_bytes() {
        let data = TaskData {
            task_id: Uuid::now_v7(),
            title: "t".to_owned(),
            status: "completed".to_owned(),
            owner_id: Some(Uuid::nil()),
        };
        let mut event = TaskEvent::task_completed(data, Uuid::now_v7());
        // Microseconds are what both formats keep.
        event.occurred_at =
            chrono::DateTime::from_timestamp_micros(event.occurred_at.timestamp_micros()).unwrap();
        for format in [EventFormat::Json, EventFormat::Avro { schema_id: 1 << 30 }] {
            let (payload, encoding) = format.encode(&event).unwrap();
            assert_eq!(Encoding::from_number(encoding.number()), encoding);
            assert_eq!(encoding.decode(&payload).unwrap(), event);
            assert!(encoding.decode(&payload[..payload.len() - 1]).is_err());
        }
        let (payload, _) = EventFormat::Avro { schema_id: 1 }.encode(&event).unwrap();
        let later = Encoding::Avro { revision: 200 }.decode(&payload).unwrap_err();
        assert!(later.contains("revision 200"), "{later}");
    }
}
