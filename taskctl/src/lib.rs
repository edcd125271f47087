//! The operator's command: topics, groups and offsets of task-events.
//!
//! Each command is a file below [`commands`]: its arguments, what it asks Kafka, and what it answers with.
//! An answer goes to stdout through [`output`], as text or JSON; an error is one line on stderr and exit
//! code 1; bad usage is exit code 2.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod api;
mod args;
mod audit_log;
pub mod commands;
mod context;
mod error;
mod log_blocks;
mod log_files;
mod output;
mod progress;

use clap::{CommandFactory, Parser, Subcommand};
use task_events::config::{KafkaArgs, TopicArgs};
use task_events::deferred::Deferred;
use task_events::registry_args::RegistryArgs;
use task_events::version::version;

pub use context::{Context, Setup};
pub use error::Error;
pub use output::Format;

/// Operates task-events: its topics, consumer groups and offsets
#[derive(Debug, Parser)]
#[command(name = "taskctl", version = version(), arg_required_else_help = false, mut_args(|arg| arg.global(true)))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    kafka: Deferred<KafkaArgs>,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    registry: Deferred<RegistryArgs>,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text", ignore_case = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all on one screen: API, outbox, topics, groups, dead letters
    Status(commands::status::Status),
    /// The topics that task-events needs
    #[command(subcommand, arg_required_else_help = false)]
    Topics(commands::topics::Command),
    /// The consumer groups
    #[command(subcommand, arg_required_else_help = false)]
    Groups(commands::groups::Command),
    /// The offsets of a consumer group
    #[command(subcommand, arg_required_else_help = false)]
    Offsets(commands::offsets::Command),
    /// The events that a group could not handle
    #[command(subcommand, arg_required_else_help = false)]
    Dlq(commands::dlq::Command),
    /// The schemas of events in a Schema Registry
    #[command(subcommand, arg_required_else_help = false)]
    Schema(commands::schema::Command),
    /// The tokens of the API's callers
    #[command(subcommand, arg_required_else_help = false)]
    Token(commands::token::Command),
    /// The database of API replicas
    #[command(subcommand, arg_required_else_help = false)]
    Db(commands::db::Command),
    /// An audit log
    #[command(subcommand, arg_required_else_help = false)]
    Audit(commands::audit::Command),
    /// Show the events as they come
    Tail(commands::tail::Tail),
    /// Show the life of an event, a task or a request: task, topic, groups, audit log, DLQ, and what is missing
    Trace(commands::trace::Trace),
    /// Look for what is wrong around the services: brokers, topics, groups, state, audit log
    Doctor(commands::doctor::Doctor),
    /// Explain the code of an error line: cause and remedy
    Explain(commands::explain::Explain),
    /// Print completions for a shell
    Completions(commands::manual::Completions),
    /// Print the manual page, or write those of all commands
    Man(commands::manual::Man),
}

impl Cli {
    /// Runs the command and writes its answer to stdout.
    pub async fn run(self) -> Result<(), Error> {
        let format = self.format;
        let setup = Setup { kafka: self.kafka, topics: self.topics, registry: self.registry, format };
        match self.command {
            // Without Kafka, and so also where a file cannot be used that is for its connections.
            Command::Token(command) => commands::token::run(format, command),
            Command::Db(command) => commands::db::run(format, command).await,
            Command::Audit(command) => commands::audit::run(setup, command).await,
            Command::Doctor(args) => commands::doctor::run(setup, args).await,
            Command::Explain(args) => commands::explain::run(format, &args),
            Command::Completions(args) => commands::manual::completions(&args, Self::command()),
            Command::Man(args) => commands::manual::man(&args, Self::command()),
            Command::Status(args) => commands::status::run(&setup.context()?, args).await,
            Command::Topics(command) => commands::topics::run(&setup.context()?, command).await,
            Command::Groups(command) => commands::groups::run(&setup.context()?, command).await,
            Command::Offsets(command) => commands::offsets::run(&setup.context()?, command).await,
            Command::Dlq(command) => commands::dlq::run(&setup.context()?, command).await,
            Command::Schema(command) => commands::schema::run(&setup.context()?, command).await,
            Command::Tail(args) => commands::tail::run(&setup.context()?, args).await,
            Command::Trace(args) => commands::trace::run(&setup.context()?, args).await,
        }
    }
}

/// Sends what is to be said beside the answer to stderr: stdout is for the answer alone.
pub fn log_to_stderr() -> Result<(), log::SetLoggerError> {
    fern::Dispatch::new()
        .level(log::LevelFilter::Warn)
        .level_for("taskctl", log::LevelFilter::Info)
        // It logs each error that it also returns.
        .level_for("rskafka", log::LevelFilter::Off)
        .format(|out, message, record| {
            let before = if record.level() == log::Level::Info { "" } else { "warning: " };
            let text = message.to_string();
            out.finish(format_args!("{before}{}", task_events::escape::escape_control(&text)));
        })
        .chain(std::io::stderr())
        .apply()
}
