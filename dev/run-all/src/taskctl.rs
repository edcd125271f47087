//! Calls of the operator's command.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::Failure;

/// Runs the operator's command to its end and returns what it answered.
pub async fn taskctl(path: &Path, env: &[(&'static str, String)], words: &[&str]) -> Result<String, Failure> {
    let what = format!("taskctl {}", words.join(" "));
    let mut command = Command::new(path);
    command.args(words).envs(env.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        command.output().await.map_err(|error| Failure(format!("{what} does not start: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why = why.trim().lines().last().unwrap_or_default().trim_start_matches("error: ");
    Err(Failure(format!("{what} failed ({}): {why}", output.status)))
}
