//! `taskctl audit`: looks at an audit log from outside the service that wrote it.

mod anchors;
mod beside;
mod covered;
mod diagnosis;
mod export;
mod findings;
mod keygen;
mod line;
mod lines;
mod on_disk;
mod order;
mod parts;
mod pipeline;
mod plain;
mod prove;
mod repeats;
mod report;
mod tree;
mod union;
mod verify;
mod witnessed;
mod zones;

use clap::Subcommand;

use crate::{Error, Setup};

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that a log, or the logs of all instances of a group, are whole: every line an event, each event once, in
    /// the order of its topic
    ///
    /// Instances that share the partitions write a log each, and the audit log is their union: then each event is once in
    /// all of them together. What was in flight when a partition changed hands may be in two; that, and what is in none,
    /// is shown and not wrong.
    ///
    /// The log is the file and the segments beside it that were sealed before, compressed ones included. Where a topic
    /// starts again (it was recreated or truncated), so does its order: that is counted, and not wrong. Where a tree is beside
    /// the log, each line has to be the entry that it was when it was written. Needs less than 64 MB of memory, however
    /// long the log is; several logs are compared in memory, with some 100 bytes for each line.
    Verify(verify::Verify),
    /// Write the lines of a log and its segments to stdout, oldest first: all, or those of a time, a task or a type
    Export(export::Export),
    /// Make a pair of keys: with the private one audit-service signs a tree over the log's lines
    Keygen(keygen::Keygen),
    /// Write a proof to stdout that an event is in a log, for somebody who has only the public key
    Prove(prove::Prove),
    /// Check such a proof, without log or Kafka
    Check(prove::Check),
}

/// Runs the command.
pub async fn run(setup: Setup, command: Command) -> Result<(), Error> {
    match command {
        Command::Verify(args) => verify::run(&setup, &args).await,
        Command::Export(args) => export::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Prove(args) => prove::prove(&args),
        Command::Check(args) => prove::check(&args),
    }
}
