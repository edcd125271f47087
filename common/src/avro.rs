//! Events as Avro: the schema, what is written, and how a reader takes what any writer's schema says.
//!
//! ```text
//! 0x00 | schema id, 4 bytes, big-endian | the event in Avro's binary encoding        (Confluent's wire format)
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `schema`, `types` | a schema's text becomes a tree of types, bounded in size and depth |
//! | `resolve` | whether a reader's schema can read what a writer's says; what breaks, in words |
//! | `plan` | writer and reader resolved once: the steps that read a record |
//! | `read` | runs the steps over the bytes of an event |
//! | `value` | any value as JSON, by one mapping; or passes it over |
//! | `input` | the bytes, number by number |
//! | `encode` | the bytes of an event of ours |
//!
//! # Invariants
//!
//! - *Bytes of anybody end in an event or in [`Malformed`](crate::event::Malformed).* Depth, items and the size of what
//!   is made of them are bounded by the size of an event; nothing is allocated by a length that the bytes only claim.
//! - *A schema of anybody is bounded before it is used*: nodes, depth; one that refers to itself is refused.
//! - *One decoder for every writer's schema.* That of our own schema is no special case, and as fast.
//! - *As Avro resolves schemas*: unknown fields are ignored, missing ones defaulted. One exception: a symbol that the
//!   reader's enum lacks is kept as text, so that the audit log says what the writer said.
//!
//! The tests hold reader and writer against the `apache-avro` crate, which is not shipped: it resolves the
//! schemas for each record, allocates each field, and takes memory by the lengths that it reads.

mod encode;
mod input;
mod plan;
mod read;
mod resolve;
mod schema;
mod types;
mod value;

pub use encode::{REVISION, encode, revision_schema};
pub use plan::Plan;
pub use resolve::breaks;
pub use schema::{Schema, SchemaError};

/// The schema that this version writes and reads: `common/schemas/task-event.avsc`.
pub const TASK_EVENT: &str = include_str!("../schemas/task-event.avsc");
/// The `content-type` header of an Avro event.
pub const CONTENT_TYPE: &str = "application/vnd.confluent.avro";

/// The first byte of each Avro record. No JSON text begins with it.
const MAGIC: u8 = 0;

/// What a record's value is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire<'a> {
    /// Avro: the id of its writer's schema, and the data.
    Avro(u32, &'a [u8]),
    /// It begins as Avro, and ends within the id.
    Cut,
    /// Anything else: JSON, or nothing that is known here.
    Other,
}

impl<'a> Wire<'a> {
    /// Looks at a value.
    pub fn of(value: &'a [u8]) -> Self {
        match value {
            [MAGIC, a, b, c, d, data @ ..] => Self::Avro(u32::from_be_bytes([*a, *b, *c, *d]), data),
            [MAGIC, ..] => Self::Cut,
            _ => Self::Other,
        }
    }
}
