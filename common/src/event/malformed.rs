//! Why a record is not an event.

/// The largest event that a reader takes, in bytes. The API writes at most some 4 KiB.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Why a record is not an event. No retry can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The record has no value.
    #[error("Invalid event: the record has no value")]
    NoValue,
    /// The value is not JSON.
    #[error("Invalid JSON in message: {0}")]
    Json(String),
    /// The value is JSON, but a known field is missing or has another type.
    #[error("Invalid event: {0}")]
    Field(String),
    /// The value is larger than [`MAX_EVENT_BYTES`].
    #[error("Invalid event: {size} bytes, the limit is {MAX_EVENT_BYTES}")]
    TooLarge {
        /// The size of the value in bytes.
        size: usize,
    },
    /// The value is Avro, and not what its writer's schema says, or that schema is none of an event.
    #[error("Invalid Avro in message: {0}")]
    Avro(String),
    /// The registry has no schema of the id that the value names.
    #[error("Invalid event: it is Avro of schema {0}, which the Schema Registry does not have")]
    UnknownSchema(u32),
    /// The value is Avro, and no registry is configured.
    #[error("Invalid event: it is Avro of schema {0}, and SCHEMA_REGISTRY_URL is not set")]
    NoRegistry(u32),
}

impl Malformed {
    /// The name of the kind, as a DLQ record stores it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoValue => "no_value",
            Self::Json(_) => "invalid_json",
            Self::Field(_) => "invalid_event",
            Self::TooLarge { .. } => "too_large",
            Self::Avro(_) => "invalid_avro",
            Self::UnknownSchema(_) => "unknown_schema",
            Self::NoRegistry(_) => "no_registry",
        }
    }

    /// Whether that is the name of a kind that handling the event again cannot mend. A registry can be given a schema,
    /// and a service a registry.
    pub fn is_kind(name: &str) -> bool {
        ["no_value", "invalid_json", "invalid_event", "too_large", "invalid_avro"].contains(&name)
    }

    /// Sorts a JSON error into syntax and shape.
    pub fn from_json(error: &serde_json::Error) -> Self {
        if error.is_data() { Self::Field(error.to_string()) } else { Self::Json(error.to_string()) }
    }
}
