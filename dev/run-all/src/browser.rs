//! Opens a page in the user's browser, by what the system has for that.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::Failure;

/// A command that opens an address, and its first arguments.
const OPENER: (&str, &[&str]) = if cfg!(target_os = "macos") {
    ("open", &[])
} else if cfg!(windows) {
    ("cmd", &["/C", "start", ""])
} else {
    ("xdg-open", &[])
};
/// Time for it to fail. One that goes on for longer shows the page.
const LIMIT: Duration = Duration::from_secs(30);

/// Opens the address.
pub async fn open(url: &str) -> Result<(), Failure> {
    let (program, args) = OPENER;
    let failed = |why: String| Failure(format!("cannot open {url} with {program}: {why}; open it yourself"));
    let mut command = Command::new(program);
    command.args(args).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut opening = command.spawn().map_err(|error| failed(error.to_string()))?;
    match timeout(LIMIT, opening.wait()).await {
        Ok(Ok(status)) if !status.success() => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
