//! Events as Avro, for topics that are worked off, and the registry that knows their schema.

use harness::{Registry, Result};
use serde_json::Value;

const SCHEMA: &str = include_str!("../../../common/schemas/task-event.avsc");

/// A registry, and the id of the schema in it.
pub struct Avro {
    /// Ends with this value.
    registry: Registry,
    id: u32,
}

impl Avro {
    /// A registry of the harness's own: what is measured asks it once.
    pub async fn start() -> Result<Self> {
        let registry = Registry::small().await?;
        let id = registry.register("task-events-value", SCHEMA).await?;
        Ok(Self { registry, id })
    }

    /// As `SCHEMA_REGISTRY_URL`.
    pub fn url(&self) -> String {
        self.registry.url()
    }

    /// The value of the record of a created task without an owner, which is given as JSON.
    pub fn encode(&self, json: &[u8]) -> Vec<u8> {
        let event: Value = serde_json::from_slice(json).expect("an event of the harness");
        let field = |path: &str| event.pointer(path).and_then(Value::as_str).expect("a field of each event");
        let micros =
            chrono::DateTime::parse_from_rfc3339(field("/occurred_at")).expect("a time").timestamp_micros();
        let mut out = [&[0], &self.id.to_be_bytes()[..]].concat();
        text(field("/event_id"), &mut out);
        // Symbol 1 of its enum: created; and below, pending.
        long(1, &mut out);
        long(micros, &mut out);
        text(field("/data/task_id"), &mut out);
        text(field("/data/title"), &mut out);
        long(1, &mut out);
        long(0, &mut out);
        text(field("/metadata/correlation_id"), &mut out);
        text(field("/metadata/source"), &mut out);
        out
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    long(text.len() as i64, out);
    out.extend(text.as_bytes());
}

fn long(number: i64, out: &mut Vec<u8>) {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
