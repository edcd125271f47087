//! `taskctl schema`: the schemas of events in a Schema Registry.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use task_events::avro::{Plan, Schema, TASK_EVENT};
use task_events::compatibility::{explained, obstacles};
use task_events::error_code::Code;
use task_events::registry::{Registry, RegistryError, subject_of};

use crate::output::{self, cell, table};
use crate::{Context, Error, Format};

/// The level that `init` sets: a reader of a new schema reads whatever was ever written.
const LEVEL: &str = "BACKWARD_TRANSITIVE";

/// What to do with schemas.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what is registered for the topic of events, and which of it is the schema of this version
    Show(Show),
    /// Ask whether a schema may follow those that are registered, and say what breaks; changes nothing
    Check(File),
    /// Register a schema
    Register(File),
    /// Register the schema of this version, and set the compatibility of its subject to BACKWARD_TRANSITIVE
    Init,
}

/// Which version.
#[derive(Debug, Args)]
pub struct Show {
    /// Show the text of this version [default: a list of all]
    #[arg(value_name = "N")]
    number: Option<u32>,
}

/// Which schema.
#[derive(Debug, Args)]
pub struct File {
    /// File of the schema, .avsc [default: the schema of this version]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(context: &Context, command: Command) -> Result<(), Error> {
    let registry = context.registry.as_ref().ok_or_else(|| {
        let why = "no Schema Registry is configured: set SCHEMA_REGISTRY_URL, as in http://localhost:8081";
        Error::Refused(Code::RegistryUnreachable, why.to_owned())
    })?;
    let subject = subject_of(&context.topics.task_events_topic);
    match command {
        Command::Show(Show { number: None }) => list(context, registry, &subject).await,
        Command::Show(Show { number: Some(number) }) => show(context, registry, &subject, number).await,
        Command::Check(file) => check(context, registry, &subject, &file.read()?).await,
        Command::Register(file) => register(context, registry, &subject, &file.read()?).await,
        Command::Init => init(context, registry, &subject).await,
    }
}

/// A schema's text, and where it is from.
struct Given {
    name: String,
    text: String,
    schema: Schema,
}

impl File {
    fn read(&self) -> Result<Given, Error> {
        let (name, text) = match &self.file {
            None => ("the schema of this version".to_owned(), TASK_EVENT.to_owned()),
            Some(path) => {
                let name = path.display().to_string();
                let text = fs::read_to_string(path)
                    .map_err(|error| Error::Refused(Code::File, format!("{name} cannot be read: {error}")))?;
                (name, text)
            }
        };
        let schema = Schema::parse(&text).map_err(|error| {
            Error::Refused(Code::SchemaUnusable, format!("{name} is no usable schema: {error}"))
        })?;
        Ok(Given { name, text, schema })
    }
}

/// What is registered for a subject.
#[derive(Debug, Serialize)]
struct Subject {
    subject: String,
    registry: String,
    /// `None`: the registry's own.
    compatibility: Option<String>,
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    version: u32,
    id: u32,
    /// It is what this version of task-events writes.
    is_ours: bool,
    /// Why consumers of this version cannot read what it writes, if they cannot.
    unreadable: Option<String>,
}

async fn list(context: &Context, registry: &Registry, subject: &str) -> Result<(), Error> {
    let numbers = match registry.versions(subject).await {
        Err(error) if error.is_not_found() => Vec::new(),
        numbers => numbers?,
    };
    let ours = match registry.find(subject, TASK_EVENT).await {
        Err(error) if error.is_not_found() => None,
        found => Some(found?.id),
    };
    let mut versions = Vec::new();
    for number in numbers {
        let registered = registry.version(subject, number).await?;
        let readable = Schema::parse(&registered.schema).map_err(|error| error.to_string());
        versions.push(Version {
            version: number,
            id: registered.id,
            is_ours: Some(registered.id) == ours,
            unreadable: readable.and_then(|schema| is_read(&schema)).err(),
        });
    }
    let compatibility = registry.level(subject).await?;
    let shown =
        Subject { subject: subject.to_owned(), registry: registry.addresses(), compatibility, versions };
    Ok(output::write(context.format, &shown, list_text)?)
}

fn list_text(shown: &Subject) -> String {
    let level = shown.compatibility.as_deref().unwrap_or("the registry's own");
    let mut text = format!("{} at {}, compatibility: {level}\n", shown.subject, shown.registry);
    if shown.versions.is_empty() {
        text.push_str("Nothing is registered: `taskctl schema init` registers the schema of this version.\n");
        return text;
    }
    let rows = shown.versions.iter().map(|one| {
        let ours = if one.is_ours { "yes" } else { "no" };
        let readable = one.unreadable.clone().unwrap_or_else(|| "ok".to_owned());
        [one.version.to_string(), one.id.to_string(), ours.to_owned(), readable]
    });
    text.push_str(&table(["VERSION", "ID", "WRITTEN-BY-THIS-VERSION", "READ-BY-THIS-VERSION"], rows));
    text
}

/// Whether consumers of this version read it.
fn is_read(schema: &Schema) -> Result<(), String> {
    let ours = Schema::parse(TASK_EVENT).map_err(|error| error.to_string())?;
    Plan::new(schema, &ours).map(drop)
}

async fn show(context: &Context, registry: &Registry, subject: &str, number: u32) -> Result<(), Error> {
    let registered = registry.version(subject, number).await?;
    let unusable = |error| {
        let why = format!("version {number} of {subject} is not JSON: {error}");
        Error::Refused(Code::SchemaUnusable, why)
    };
    let schema: serde_json::Value = serde_json::from_str(&registered.schema).map_err(unusable)?;
    // As it was written: its fields keep their order.
    Ok(output::write(context.format, &schema, |_| format!("{}\n", registered.schema.trim_end()))?)
}

/// What became of a check.
#[derive(Debug, Serialize)]
struct Checked {
    subject: String,
    compatibility: Option<String>,
    is_compatible: bool,
    /// What breaks, in words.
    breaks: Vec<String>,
    /// What the registry says.
    registry: Vec<String>,
    /// Why consumers of this version cannot read what it writes, if they cannot.
    unreadable: Option<String>,
}

async fn check(context: &Context, registry: &Registry, subject: &str, given: &Given) -> Result<(), Error> {
    let level = registry.level(subject).await?;
    let answer = match registry.check(subject, &given.text).await {
        Err(error) if error.is_not_found() => None,
        answer => Some(answer?),
    };
    let breaks = match &answer {
        Some(answer) if !answer.is_compatible => {
            obstacles(registry, subject, &given.schema, level.as_deref()).await?
        }
        _ => Vec::new(),
    };
    let is_first = answer.is_none();
    let is_compatible = answer.as_ref().is_none_or(|answer| answer.is_compatible);
    let said = answer.map(|answer| [answer.messages, answer.reason.into_iter().collect()].concat());
    let checked = Checked {
        subject: subject.to_owned(),
        compatibility: level,
        is_compatible,
        breaks,
        registry: said.unwrap_or_default(),
        unreadable: is_read(&given.schema).err(),
    };
    let name = &given.name;
    if !is_compatible {
        let why = if checked.breaks.is_empty() { &checked.registry } else { &checked.breaks };
        if let Format::Json = context.format {
            output::write(context.format, &checked, |_| String::new())?;
        }
        let why = format!("{name} cannot follow what is registered under {subject}: {}", why.join("; "));
        return Err(Error::Refused(Code::SchemaIncompatible, why));
    }
    Ok(output::write(context.format, &checked, |checked| {
        let may = if is_first { "nothing is registered: it may be the first" } else { "it may follow" };
        let read = match &checked.unreadable {
            None => "consumers of this version read what it writes".to_owned(),
            Some(why) => format!("consumers of this version cannot read what it writes: {why}"),
        };
        format!("{name}, {subject}, {}: {may}; {read}\n", cell(checked.compatibility.as_ref()))
    })?)
}

/// What is registered now.
#[derive(Debug, Serialize)]
struct Registered {
    subject: String,
    id: u32,
    compatibility: Option<String>,
}

async fn register(context: &Context, registry: &Registry, subject: &str, given: &Given) -> Result<(), Error> {
    let id = registered(registry, subject, &given.text).await?;
    let compatibility = registry.level(subject).await?;
    write(context, Registered { subject: subject.to_owned(), id, compatibility })
}

async fn init(context: &Context, registry: &Registry, subject: &str) -> Result<(), Error> {
    // First: some registries have no level for a subject that is not there.
    let id = registered(registry, subject, TASK_EVENT).await?;
    registry.set_level(subject, LEVEL).await?;
    write(context, Registered { subject: subject.to_owned(), id, compatibility: Some(LEVEL.to_owned()) })
}

async fn registered(registry: &Registry, subject: &str, text: &str) -> Result<u32, RegistryError> {
    match registry.register(subject, text).await {
        Err(refusal) => Err(explained(registry, subject, text, refusal).await),
        id => id,
    }
}

fn write(context: &Context, registered: Registered) -> Result<(), Error> {
    Ok(output::write(context.format, &registered, |one| {
        let level = one.compatibility.as_deref().unwrap_or("the registry's own");
        format!("{}: registered with id {}, compatibility: {level}\n", one.subject, one.id)
    })?)
}
