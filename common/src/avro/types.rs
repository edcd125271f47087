//! A schema as a tree of types.

use std::sync::Arc;

use serde_json::Value;

/// A type, with what is used of its logical type. Any other logical type is what it is made of, as Avro demands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Null,
    Boolean,
    /// Days since 1970 where it is a date.
    Int {
        is_date: bool,
    },
    /// A time since 1970 where it has a unit.
    Long(Option<Unit>),
    Float,
    Double,
    Bytes,
    Text,
    Fixed(Arc<Fixed>),
    Enum(Arc<Enum>),
    Array(Arc<Type>),
    Map(Arc<Type>),
    Union(Arc<[Type]>),
    Record(Arc<Record>),
}

/// What a timestamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

#[derive(Debug, PartialEq)]
pub(super) struct Fixed {
    pub(super) name: String,
    pub(super) size: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct Enum {
    pub(super) name: String,
    pub(super) symbols: Vec<String>,
    pub(super) default: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) default: Option<Value>,
    pub(super) of: Type,
}

impl Record {
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field of a writer's record that this field of a reader's is read from: by its name, else by an alias.
    pub(super) fn source_of(&self, reader: &Field) -> Option<&Field> {
        let by_alias = || reader.aliases.iter().find_map(|alias| self.field(alias));
        self.field(&reader.name).or_else(by_alias)
    }
}

impl Type {
    /// What it is called, in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Boolean => "boolean".to_owned(),
            Self::Int { .. } => "int".to_owned(),
            Self::Long(_) => "long".to_owned(),
            Self::Float => "float".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::Text => "string".to_owned(),
            Self::Fixed(fixed) => format!("fixed of {} bytes", fixed.size),
            Self::Enum(one) => format!("enum {}", one.name),
            Self::Array(_) => "array".to_owned(),
            Self::Map(_) => "map".to_owned(),
            Self::Record(record) => format!("record {}", record.name),
            Self::Union(branches) => {
                format!("union of {}", branches.iter().map(Self::name).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
