//! Development chores, run as `cargo xtask CHORE`. A chore is a module with one `run`.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod audit_data;
mod cargo;
mod dist;
mod docs;
mod elf;
mod flags;
mod graph;
mod layers;
mod linker;
mod no_c;
mod registry;
mod result;
mod sbom;
mod shipped;
mod side_by_side;
mod static_build;

use clap::{CommandFactory, Parser, Subcommand};
use result::Result;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development chores of task-events")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Fail if anything that is shipped compiles or links C.
    NoC(no_c::Options),
    /// Fail if source files import each other, or if one that is shipped is too long.
    Layers,
    /// Build every binary for musl, check that it is static, and run it in an empty chroot.
    Static,
    /// Build what is shipped into dist/: static binaries, their checksums, a bill of materials.
    Dist,
    /// Fetch a Schema Registry into target/registry, for tests and for `cargo run-all --avro`.
    Registry,
    /// Run all tests, several test binaries at a time.
    Test(side_by_side::Options),
    /// Fail if a document names a file, test or command that does not exist.
    Docs(docs::Options),
}

/// The names of the chores, for the documents that name them.
fn chores() -> Vec<String> {
    Cli::command().get_subcommands().map(|chore| chore.get_name().to_owned()).collect()
}

fn main() -> ExitCode {
    // As cargo's compiler, in a build that `static_build` started: no chore.
    if let Some(objects) = linker::objects() {
        eprintln!("error: {}", linker::run(&objects));
        return ExitCode::FAILURE;
    }
    let done = match Cli::parse().chore {
        Chore::NoC(options) => no_c::run(&options),
        Chore::Layers => layers::run(),
        Chore::Static => static_build::run(),
        Chore::Dist => dist::run(),
        Chore::Registry => registry::run(),
        Chore::Test(options) => side_by_side::run(&options),
        Chore::Docs(options) => docs::run(&options, &chores()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
