//! Builds the binaries with cargo, in the profile that this one was built in.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::Failure;
use crate::services::{self, TASKCTL};

const PACKAGES: [&str; 4] = ["task-api", "consumers", "devbroker", "taskctl"];

/// Where the binaries are, by name.
#[derive(Debug)]
pub struct Binaries(HashMap<String, PathBuf>);

impl Binaries {
    /// The path of a binary.
    pub fn path(&self, name: &str) -> Result<&Path, Failure> {
        let path = self.0.get(name).map(PathBuf::as_path);
        path.ok_or_else(|| {
            Failure(format!("there is no binary {name}: is the checkout, or --binaries, complete?"))
        })
    }

    /// Those in a folder, which need not hold all.
    pub fn in_folder(folder: &Path) -> Self {
        let paths = services::with_state().chain([TASKCTL]).map(|name| (name.to_owned(), folder.join(name)));
        Self(paths.filter(|(_, path)| path.is_file()).collect())
    }
}

/// Builds them; cargo shows its progress on stderr and says on stdout where it put them.
pub async fn build() -> Result<Binaries, Failure> {
    let manifest = manifest().ok_or_else(|| {
        Failure(
            "cannot determine which checkout to build: use `cargo run-all` in it, or --binaries FOLDER"
                .to_owned(),
        )
    })?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(&cargo);
    command.args(["build", "--message-format", "json-render-diagnostics", "--manifest-path"]);
    command.arg(manifest);
    command.args(["--bins", "--profile", profile()]);
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    // Not `output()`, which would keep what cargo says on stderr to itself.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let failed = |what: String| Failure(format!("cannot build the services: {what}"));
    let cargo =
        command.spawn().map_err(|error| failed(format!("{} does not start: {error}", cargo.display())))?;
    let output = cargo.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("cargo build ended with {}", output.status)));
    }
    Ok(Binaries(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect()))
}

/// The workspace of the checkout that this was started in, found at run time: a checkout that was copied with its
/// target folder holds a binary that was compiled elsewhere.
fn manifest() -> Option<PathBuf> {
    // Cargo names the package that it runs; otherwise this binary is in the checkout's target/PROFILE.
    let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let by_place = std::env::current_exe().ok();
    let starts = by_cargo.into_iter().chain(by_place);
    starts.flat_map(|start| start.ancestors().map(Path::to_owned).collect::<Vec<_>>()).find_map(workspace)
}

/// The manifest of a checkout of this workspace.
fn workspace(folder: PathBuf) -> Option<PathBuf> {
    let is_checkout = folder.join("dev/run-all/Cargo.toml").is_file();
    Some(folder.join("Cargo.toml")).filter(|manifest| is_checkout && manifest.is_file())
}

/// The profile that this binary was built in.
fn profile() -> &'static str {
    if cfg!(debug_assertions) { "dev" } else { "release" }
}

/// The name and path of a binary, from one of cargo's messages.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkout_of_this_workspace_is_built() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(workspace(folder.path().to_owned()), None, "a workspace of somebody else");
        std::fs::create_dir_all(folder.path().join("dev/run-all")).unwrap();
        std::fs::write(folder.path().join("dev/run-all/Cargo.toml"), "").unwrap();
        assert_eq!(workspace(folder.path().to_owned()), Some(folder.path().join("Cargo.toml")));
        assert!(manifest().is_some(), "this one");
    }

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let artifact = r#"{"reason":"compiler-artifact","target":{"name":"taskctl","kind":["bin"]},"executable":"/t/taskctl"}"#;
        assert_eq!(executable(artifact), Some(("taskctl".to_owned(), PathBuf::from("/t/taskctl"))));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"taskctl"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("no JSON"), None);
    }
}
