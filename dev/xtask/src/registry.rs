//! Fetches a Schema Registry for tests and for `cargo run-all --avro`.

use crate::result::Result;
use std::process::Command;

/// Runs the script that fetches it into target/registry, checksum and all.
pub fn run() -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/registry/fetch");
    let status =
        Command::new(script).status().map_err(|error| format!("{script} does not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{script} ended with {status}")) }
}
