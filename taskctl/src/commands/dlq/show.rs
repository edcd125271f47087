//! `taskctl dlq show`: one dead letter whole.

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use task_events::dlq::{Original, OriginalHeader};
use task_events::error_code::Code;
use task_events::escape::{cut, escape_control};
use task_events::operate::letters::{Letter, LetterName, LetterRow, read_named, read_one};
use task_events::operate::positions::Positions;
use task_events::redrive::RedriveNote;

use crate::output;
use crate::progress::Progress;
use crate::{Context, Error};

/// Characters that are shown of a value that is not JSON.
const VALUE_CHARS: usize = 1_000;

/// Which dead letter.
#[derive(Debug, Args)]
pub struct Show {
    /// PARTITION/OFFSET as `taskctl dlq list` shows it, or an event id
    #[arg(value_name = "ID")]
    id: LetterName,
}

/// The answer, one for each letter that the id means.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    row: LetterRow,
    /// The event, where it is JSON, or Avro that can be read now.
    original_event: Option<Box<RawValue>>,
    /// Of an event in Avro, the id of its schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_id: Option<u32>,
    /// Its value otherwise; null where it has none, or where it is only at its source.
    original_value_base64: Option<String>,
    /// Its value, where the letter carries it; the inner `None`: it has none.
    #[serde(skip)]
    original: Option<Option<Vec<u8>>>,
    original_headers: Vec<OriginalHeader>,
    /// What became of it, in words.
    state: String,
}

/// Runs the command.
pub async fn run(context: &Context, args: &Show) -> Result<(), Error> {
    let (dlq, names) = (&context.topics.dlq_topic, [args.id]);
    let letters = read_named(&context.kafka, dlq, &names, &mut Progress::default()).await?;
    let found: Vec<_> = letters.into_iter().filter(|letter| args.id.means(letter)).collect();
    if found.is_empty() {
        return Err(Error::Refused(
            Code::NotFound,
            "there is no such dead letter: see `taskctl dlq list`".to_owned(),
        ));
    }
    let positions = Positions::read(&context.kafka, &context.topics.offsets_topic).await?;
    let mut shown = Vec::new();
    for letter in &found {
        shown.push(show(context, &positions, letter).await?);
    }
    output::write(context.format, &shown, |shown| shown.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

async fn show(context: &Context, positions: &Positions, letter: &Letter) -> Result<Shown, Error> {
    let record =
        read_one(&context.kafka, &context.topics.dlq_topic, letter.id).await?.map(|(_, record)| record);
    let original = record.as_ref().and_then(|record| record.original_value().ok().flatten());
    let base64 = record.as_ref().and_then(|record| match &record.original_value_base64 {
        Original::Base64(text) => Some(text.clone()),
        Original::NoValue | Original::Elsewhere => None,
    });
    let bytes = original.as_ref().and_then(|value| value.as_deref());
    let avro = context.events.read_now(bytes).await.ok().filter(|event| event.schema_id.is_some());
    let schema_id = avro.as_ref().and_then(|event| event.schema_id);
    let from_avro = avro.and_then(|event| RawValue::from_string(event.to_json()).ok());
    let (event, headers) = record.map(|record| (record.original_event, record.original_headers)).unzip();
    Ok(Shown {
        row: LetterRow::new(letter),
        original_event: event.flatten().or(from_avro),
        schema_id,
        original_value_base64: base64,
        original,
        original_headers: headers.unwrap_or_default(),
        state: match &letter.redriven {
            None => "open: not redriven yet".to_owned(),
            Some(note) => redriven(positions, note),
        },
    })
}

fn redriven(positions: &Positions, note: &RedriveNote) -> String {
    let RedriveNote { to, group, .. } = note;
    match positions.of(group, &to.topic, to.partition) {
        Some(position) if position > to.offset => {
            format!("redriven to {to}, which {group} has passed: handled, or a later dead letter of its own")
        }
        Some(position) => format!("redriven to {to}; {group} is at offset {position} and has not reached it"),
        None => format!("redriven to {to}; {group} has committed nothing there"),
    }
}

fn text(shown: &Shown) -> String {
    let LetterRow { id, failed_at, group, kind, message, retry_count, source, .. } = &shown.row;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!("{name:10}{}\n", escape_control(value)));
    };
    line("ID", id);
    line("STATE", &shown.state);
    line("FAILED-AT", failed_at);
    line("GROUP", group);
    line("KIND", kind);
    line("ERROR", message);
    line("RETRIES", &retry_count.to_string());
    line("SOURCE", source);
    for (name, value) in
        [("TASK", &shown.row.task_id), ("EVENT", &shown.row.event_id), ("TYPE", &shown.row.event_type)]
    {
        if let Some(value) = value {
            line(name, value);
        }
    }
    for header in &shown.original_headers {
        let value = header.value.as_deref().or(header.value_base64.as_deref()).unwrap_or("null");
        line("HEADER", &format!("{}: {value}", header.name));
    }
    if let Some(id) = shown.schema_id {
        line("SCHEMA", &format!("{id} (Avro, shown as JSON)"));
    }
    match (&shown.original_event, &shown.original) {
        (Some(event), _) => line("VALUE", event.get()),
        (None, Some(None)) => line("VALUE", "none"),
        (None, Some(Some(bytes))) => {
            let start = cut(&String::from_utf8_lossy(bytes), VALUE_CHARS);
            line("VALUE", &format!("{start} ({} bytes, not JSON)", bytes.len()));
        }
        (None, None) => line("VALUE", "only at its source: it was too large for the DLQ, or cannot be read"),
    }
    text
}
