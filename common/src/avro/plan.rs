//! A writer's schema and the reader's, resolved once: the steps that read a record of that writer.
//!
//! The reader's records are the event, its `data` and its `metadata`. Fields that this version knows are read into
//! their places; a reader's schema may have more of them, which are then passed on as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use super::resolve::breaks;
use super::schema::Schema;
use super::types::{Field, Record, Type, Unit};
use crate::event::EventType;

/// How records of one writer's schema are read.
#[derive(Debug)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    /// Further fields of the reader's schema: of `data`, then of `metadata`.
    pub(super) extras: Vec<Extra>,
}

/// What comes next in a record.
#[derive(Debug)]
pub(super) enum Step {
    Skip(Type),
    /// A text.
    Text(TextField),
    /// The owner, where there is one.
    Owner,
    /// The actor, where there is one.
    Actor,
    Type(Arc<[Cow<'static, str>]>),
    Status(Arc<[Cow<'static, str>]>),
    OccurredAt(Unit),
    /// A further field of the reader's schema, by its number.
    Extra(usize, Type),
    /// The branch of a union, each with the steps that read it.
    Branch(Vec<Vec<Step>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextField {
    EventId,
    TaskId,
    Title,
    CorrelationId,
    Source,
}

/// A field of the reader's schema that this version knows nothing of.
#[derive(Debug)]
pub(super) struct Extra {
    pub(super) of: Object,
    /// Its name as JSON, with what separates it.
    pub(super) name: String,
    /// As JSON, where the record has none.
    pub(super) default: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    Event,
    Data,
    Metadata,
}

/// What is read into its place, in which record.
#[derive(Debug, Clone, Copy)]
enum Target {
    Text(TextField),
    Type,
    Status,
    OccurredAt,
    Owner,
    Actor,
    Object(Object),
    Extra,
}

fn target(object: Object, name: &str) -> Target {
    match (object, name) {
        (Object::Event, "event_id") => Target::Text(TextField::EventId),
        (Object::Event, "event_type") => Target::Type,
        (Object::Event, "occurred_at") => Target::OccurredAt,
        (Object::Event, "data") => Target::Object(Object::Data),
        (Object::Event, "metadata") => Target::Object(Object::Metadata),
        (Object::Data, "task_id") => Target::Text(TextField::TaskId),
        (Object::Data, "title") => Target::Text(TextField::Title),
        (Object::Data, "status") => Target::Status,
        (Object::Data, "owner_id") => Target::Owner,
        (Object::Metadata, "correlation_id") => Target::Text(TextField::CorrelationId),
        (Object::Metadata, "source") => Target::Text(TextField::Source),
        (Object::Metadata, "actor") => Target::Actor,
        _ => Target::Extra,
    }
}

/// What an event has to have, by the names of its schema.
const KNOWN: [(Object, &[&str]); 3] = [
    (Object::Event, &["event_id", "event_type", "occurred_at", "data", "metadata"]),
    (Object::Data, &["task_id", "title", "status"]),
    (Object::Metadata, &["correlation_id", "source"]),
];

/// Begins what is said of the actor.
const ACTOR: &str = "metadata.actor:";

/// Whether a text or nothing is there.
fn is_optional_text(of: &Type) -> bool {
    match of {
        Type::Null | Type::Text | Type::Bytes => true,
        Type::Union(branches) => branches.iter().all(is_optional_text),
        _ => false,
    }
}

impl Plan {
    /// How a reader with that schema reads records of that writer; or why it cannot, in words that name the field.
    pub fn new(writer: &Schema, reader: &Schema) -> Result<Self, String> {
        let mut found = breaks(writer, reader);
        // What another producer has there may be anything, and is passed over where it is no text.
        found.retain(|why| !why.starts_with(ACTOR));
        if !found.is_empty() {
            return Err(found.join("; "));
        }
        match (&writer.0, &reader.0) {
            (Type::Record(writer), Type::Record(reader)) => {
                let mut plan = Self { steps: Vec::new(), extras: Vec::new() };
                plan.steps = plan.record(Object::Event, writer, reader)?;
                Ok(plan)
            }
            (writer, _) => Err(format!("the schema is {}, not a record", writer.name())),
        }
    }

    fn record(&mut self, object: Object, writer: &Record, reader: &Record) -> Result<Vec<Step>, String> {
        let needed = KNOWN.iter().filter(|(of, _)| *of == object).flat_map(|(_, names)| names.iter());
        for name in needed {
            let field =
                reader.field(name).ok_or_else(|| format!("the reader's {} has no {name}", reader.name))?;
            if writer.source_of(field).is_none() {
                return Err(format!("{name}: it is not in the writer's schema"));
            }
        }
        let mut steps = Vec::with_capacity(writer.fields.len());
        for field in &writer.fields {
            // The first field of the reader that is read from this one.
            let reads = |one: &&Field| writer.source_of(one).is_some_and(|source| source.name == field.name);
            match reader.fields.iter().find(reads) {
                Some(wanted) => self.field(object, &field.of, wanted, &mut steps)?,
                None => steps.push(Step::Skip(field.of.clone())),
            }
        }
        for missing in reader.fields.iter().filter(|one| writer.source_of(one).is_none()) {
            if let (Target::Extra, Some(default)) = (target(object, &missing.name), &missing.default) {
                self.extra(object, &missing.name, default.to_string());
            }
        }
        Ok(steps)
    }

    fn extra(&mut self, of: Object, name: &str, default: String) -> usize {
        let name = format!(",{}:", serde_json::Value::from(name));
        // Once, also where several branches have it.
        if let Some(number) = self.extras.iter().position(|one| one.of == of && one.name == name) {
            return number;
        }
        self.extras.push(Extra { of, name, default });
        self.extras.len() - 1
    }

    fn field(
        &mut self,
        object: Object,
        writer: &Type,
        wanted: &Field,
        steps: &mut Vec<Step>,
    ) -> Result<(), String> {
        let target = target(object, &wanted.name);
        if let Target::Extra = target {
            if object == Object::Event {
                steps.push(Step::Skip(writer.clone()));
            } else {
                let number = self.extra(object, &wanted.name, "null".to_owned());
                steps.push(Step::Extra(number, writer.clone()));
            }
            return Ok(());
        }
        if matches!(target, Target::Actor) && !is_optional_text(writer) {
            steps.push(Step::Skip(writer.clone()));
            return Ok(());
        }
        self.known(target, writer, wanted, steps)
    }

    fn known(
        &mut self,
        target: Target,
        writer: &Type,
        wanted: &Field,
        steps: &mut Vec<Step>,
    ) -> Result<(), String> {
        let step = match (target, writer) {
            (_, Type::Union(branches)) => {
                let mut each = Vec::with_capacity(branches.len());
                for branch in branches.iter() {
                    let mut steps = Vec::new();
                    self.known(target, branch, wanted, &mut steps)?;
                    each.push(steps);
                }
                Step::Branch(each)
            }
            (Target::Object(object), Type::Record(writer)) => {
                let Type::Record(reader) = &wanted.of else {
                    return Err(format!("{} of the reader's schema is not a record", wanted.name));
                };
                steps.extend(self.record(object, writer, reader)?);
                return Ok(());
            }
            (Target::Text(text), Type::Text | Type::Bytes) => Step::Text(text),
            (Target::Owner, Type::Text | Type::Bytes) => Step::Owner,
            // What is not read stays none.
            (Target::Owner | Target::Actor, Type::Null) => return Ok(()),
            (Target::Actor, Type::Text | Type::Bytes) => Step::Actor,
            (Target::Type, Type::Enum(one)) => {
                Step::Type(one.symbols.iter().map(|symbol| type_name(symbol)).collect())
            }
            (Target::Status, Type::Enum(one)) => {
                Step::Status(one.symbols.iter().map(|symbol| Cow::Owned(symbol.clone())).collect())
            }
            (Target::OccurredAt, Type::Int { .. }) => Step::OccurredAt(Unit::Micros),
            (Target::OccurredAt, Type::Long(unit)) => Step::OccurredAt(unit.unwrap_or(Unit::Micros)),
            _ => return Err(format!("{}: {} is not what an event has there", wanted.name, writer.name())),
        };
        steps.push(step);
        Ok(())
    }
}

/// `task_created` is `task.created`: Avro's names have no dots.
fn type_name(symbol: &str) -> Cow<'static, str> {
    let name = match symbol.strip_prefix("task_") {
        Some(rest) => format!("task.{rest}"),
        None => symbol.to_owned(),
    };
    match EventType::from_name(&name) {
        Some(known) => Cow::Borrowed(known.as_str()),
        None => Cow::Owned(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::TASK_EVENT;
    use super::*;

    #[test]
    fn an_actor_of_another_producer_that_is_no_text_is_passed_over() {
        let reader = Schema::parse(TASK_EVENT).unwrap();
        let ours = "\"name\": \"actor\",\n            \"type\": [\"null\", \"string\"],\n            \"default\": null,";
        assert!(TASK_EVENT.contains(ours));
        for theirs in ["\"long\"", "[\"string\", \"int\"]", r#"{"type":"map","values":"string"}"#] {
            let text = TASK_EVENT.replace(ours, &format!("\"name\": \"actor\", \"type\": {theirs},"));
            let plan = Plan::new(&Schema::parse(&text).unwrap(), &reader).unwrap();
            assert!(matches!(plan.steps.last(), Some(Step::Skip(_))), "{theirs}: {plan:?}");
        }
    }

    #[test]
    fn a_schema_that_cannot_be_read_is_refused_with_the_field_named() {
        let reader = Schema::parse(TASK_EVENT).unwrap();
        for (from, to, why) in [
            ("\"name\": \"title\"", "\"name\": \"subject\"", "data.title"),
            ("\"name\": \"event_id\"", "\"name\": \"id\"", "event_id"),
            ("\"type\": \"long\"", "\"type\": \"string\"", "occurred_at"),
            (
                "\"type\": \"string\",\n            \"doc\": \"Its title",
                "\"type\": \"boolean\",\n \"doc\": \"",
                "data.title",
            ),
        ] {
            assert!(TASK_EVENT.contains(from), "{from}");
            let writer = Schema::parse(&TASK_EVENT.replace(from, to)).unwrap();
            let refused = Plan::new(&writer, &reader).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        for other in ["\"string\"", r#"{"type":"record","name":"R","fields":[]}"#, r#"["null","string"]"#] {
            assert!(Plan::new(&Schema::parse(other).unwrap(), &reader).is_err());
        }
    }
}
