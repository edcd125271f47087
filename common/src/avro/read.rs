//! Runs a plan over the bytes of an event. Texts are borrowed from them where they need no copy.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::input::{Input, Mismatch};
use super::plan::{Object, Plan, Step, TextField};
use super::value::{Values, bounded, branch, quoted, symbol, text, time};
use crate::event::{Event, JsonText, Task};
use crate::time::Rfc3339;

/// What `data` and `metadata` take as JSON beside the texts in them.
const DATA_BYTES: usize = 160;
const METADATA_BYTES: usize = 80;

/// What was read so far.
#[derive(Debug)]
struct Fields<'a, 'p> {
    event_id: Uuid,
    event_type: &'p str,
    /// The same, where it outlives the plan.
    known_type: Option<&'static str>,
    occurred_at: DateTime<Utc>,
    task_id: Uuid,
    title: &'a str,
    status: &'p str,
    owner_id: Option<Uuid>,
    correlation_id: Uuid,
    source: &'a str,
    actor: Option<&'a str>,
    extras: Vec<Option<String>>,
}

impl Plan {
    /// Reads the data of an event, without the prefix that names its schema.
    pub fn read<'a>(&self, schema_id: u32, data: &'a [u8]) -> Result<Event<'a>, Mismatch> {
        let mut fields = Fields {
            event_id: Uuid::nil(),
            event_type: "",
            known_type: None,
            occurred_at: DateTime::UNIX_EPOCH,
            task_id: Uuid::nil(),
            title: "",
            status: "",
            owner_id: None,
            correlation_id: Uuid::nil(),
            source: "",
            actor: None,
            extras: vec![None; self.extras.len()],
        };
        let mut input = Input(data);
        run(&self.steps, &mut input, &mut Values::new(), &mut fields)?;
        match input.0.len() {
            0 => {}
            more => return Err(format!("{more} bytes follow the event")),
        }
        let data = self.data(&mut fields);
        let metadata = self.metadata(&mut fields);
        bounded(&data)?;
        bounded(&metadata)?;
        let task = fields.known_type.is_some().then(|| Task {
            task_id: fields.task_id,
            title: Cow::Borrowed(fields.title),
            status: Cow::Owned(fields.status.to_owned()),
            owner_id: fields.owner_id,
        });
        Ok(Event {
            event_id: fields.event_id,
            event_type: fields
                .known_type
                .map_or_else(|| Cow::Owned(fields.event_type.to_owned()), Cow::Borrowed),
            occurred_at: Cow::Owned(Rfc3339::new(fields.occurred_at).as_str().to_owned()),
            data: JsonText::from(data),
            metadata: JsonText::from(metadata),
            correlation_id: fields.correlation_id,
            task,
            schema_id: Some(schema_id),
        })
    }

    fn data(&self, fields: &mut Fields<'_, '_>) -> String {
        let mut out = String::with_capacity(fields.title.len() + DATA_BYTES);
        out.push_str(r#"{"task_id":"#);
        uuid(fields.task_id, &mut out);
        out.push_str(r#","title":"#);
        text(fields.title, &mut out);
        out.push_str(r#","status":"#);
        text(fields.status, &mut out);
        out.push_str(r#","owner_id":"#);
        match fields.owner_id {
            Some(owner) => uuid(owner, &mut out),
            None => out.push_str("null"),
        }
        self.end(Object::Data, fields, out)
    }

    fn metadata(&self, fields: &mut Fields<'_, '_>) -> String {
        let mut out = String::with_capacity(fields.source.len() + METADATA_BYTES);
        out.push_str(r#"{"correlation_id":"#);
        uuid(fields.correlation_id, &mut out);
        out.push_str(r#","source":"#);
        text(fields.source, &mut out);
        // As JSON events have it: not at all where there is none.
        if let Some(actor) = fields.actor {
            out.push_str(r#","actor":"#);
            text(actor, &mut out);
        }
        self.end(Object::Metadata, fields, out)
    }

    fn end(&self, of: Object, fields: &mut Fields<'_, '_>, mut out: String) -> String {
        let extras = self.extras.iter().zip(&mut fields.extras);
        for (extra, value) in extras.filter(|(extra, _)| extra.of == of) {
            out.push_str(&extra.name);
            out.push_str(value.as_deref().unwrap_or(&extra.default));
        }
        out.push('}');
        out
    }
}

fn run<'a, 'p>(
    steps: &'p [Step],
    input: &mut Input<'a>,
    values: &mut Values,
    fields: &mut Fields<'a, 'p>,
) -> Result<(), Mismatch> {
    for step in steps {
        match step {
            Step::Text(TextField::EventId) => fields.event_id = id(input, "event_id")?,
            Step::Text(TextField::TaskId) => fields.task_id = id(input, "data.task_id")?,
            Step::Text(TextField::CorrelationId) => {
                fields.correlation_id = id(input, "metadata.correlation_id")?
            }
            Step::Text(TextField::Title) => fields.title = input.text()?,
            Step::Text(TextField::Source) => fields.source = input.text()?,
            Step::Actor => fields.actor = Some(input.text()?),
            Step::Owner => fields.owner_id = Some(id(input, "data.owner_id")?),
            Step::Type(names) => match symbol(names, input)? {
                Cow::Borrowed(known) => (fields.known_type, fields.event_type) = (Some(*known), *known),
                Cow::Owned(other) => fields.event_type = other,
            },
            Step::Status(names) => fields.status = symbol(names, input)?,
            Step::OccurredAt(unit) => fields.occurred_at = time(input.long()?, *unit)?,
            Step::Skip(of) => values.skip(of, input)?,
            Step::Extra(number, of) => {
                let mut json = String::new();
                values.write(of, input, &mut json)?;
                if let Some(place) = fields.extras.get_mut(*number) {
                    *place = Some(json);
                }
            }
            Step::Branch(branches) => run(branch(branches, input)?, input, values, fields)?,
        }
    }
    Ok(())
}

fn id(input: &mut Input<'_>, field: &str) -> Result<Uuid, Mismatch> {
    let text = input.bytes()?;
    Uuid::try_parse_ascii(text).map_err(|error| format!("{field} is not a uuid: {error}"))
}

fn uuid(id: Uuid, out: &mut String) {
    let mut buffer = Uuid::encode_buffer();
    quoted(id.hyphenated().encode_lower(&mut buffer), out);
}
