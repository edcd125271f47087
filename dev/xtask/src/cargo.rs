//! Calls of cargo, and what it says of the packages.

use crate::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The cargo that runs this chore.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end, its output on the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{} does not start: {error}", show(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", show(command))) }
}

/// Runs a command to its end and returns its standard output. Its standard error is where the command says.
pub fn output_of(command: &mut Command) -> Result<String> {
    let child = command.stdout(Stdio::piped()).spawn();
    let output = child.and_then(Child::wait_with_output);
    let output = output.map_err(|error| format!("{} does not start: {error}", show(command)))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} ended with {}", show(command), output.status))
    }
}

/// Runs a command to its end and returns its standard output; its standard error is part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("{} does not start: {error}", show(command)))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} ended with {}: {}", show(command), output.status, said.trim()))
    }
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A package as its manifest describes it.
pub struct Package {
    /// The `links` key: the native library that the package claims.
    pub links: Option<String>,
    /// Whether it has a build script.
    pub build_script: bool,
    /// Its licence, as its author wrote it.
    pub license: Option<String>,
    /// Where it comes from, as cargo names it; none where it is of this workspace.
    pub source: Option<String>,
    binaries: Vec<String>,
    /// The root files of its library and its binaries.
    crate_roots: Vec<PathBuf>,
}

/// The packages of a workspace and of everything it depends on, by name and version.
pub struct Metadata {
    packages: BTreeMap<(String, String), Package>,
    /// The folder that cargo builds into.
    pub target_directory: PathBuf,
    /// The folder of the workspace.
    pub workspace_root: PathBuf,
}

impl Metadata {
    /// Asks cargo. Without a manifest path: the workspace of the current folder.
    pub fn read(manifest_path: Option<&Path>, targets: &[&str]) -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1"]);
        for target in targets {
            command.args(["--filter-platform", target]);
        }
        if let Some(path) = manifest_path {
            command.arg("--manifest-path").arg(path);
        }
        let text = output(&mut command)?;
        Self::parse(&text).ok_or_else(|| "the output of cargo metadata is not in the known form".to_owned())
    }

    fn parse(text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        let packages = json.get("packages")?.as_array()?;
        Some(Self {
            packages: packages.iter().map(read_package).collect::<Option<_>>()?,
            target_directory: json.get("target_directory")?.as_str()?.into(),
            workspace_root: json.get("workspace_root")?.as_str()?.into(),
        })
    }

    /// The package of this name and version.
    pub fn package(&self, name: &str, version: &str) -> Option<&Package> {
        self.packages.get(&(name.to_owned(), version.to_owned()))
    }

    /// Whether a package of this name is of the workspace.
    #[cfg(test)]
    pub fn is_own(&self, name: &str) -> bool {
        self.packages.iter().any(|((known, _), package)| known == name && package.source.is_none())
    }

    /// The root files of the libraries and binaries of this workspace.
    pub fn own_crate_roots(&self) -> impl Iterator<Item = &Path> {
        self.packages.values().flat_map(|package| package.crate_roots.iter().map(PathBuf::as_path))
    }

    /// The name of the package that has this binary.
    pub fn package_of_binary(&self, binary: &str) -> Option<&str> {
        let mut packages = self.packages.iter();
        let found = packages.find(|(_, package)| package.binaries.iter().any(|name| name == binary));
        found.map(|((name, _), _)| name.as_str())
    }
}

fn read_package(json: &Value) -> Option<((String, String), Package)> {
    let text = |key: &str| Some(json.get(key)?.as_str()?.to_owned());
    let targets = json.get("targets")?.as_array()?;
    let of_kind = |kind: &'static str| {
        targets.iter().filter(move |target| {
            let kinds = target.get("kind").and_then(Value::as_array);
            kinds.is_some_and(|kinds| kinds.iter().any(|one| one == kind))
        })
    };
    // Only the workspace's own binaries count: a dependency has no source of its own here.
    let own = json.get("source").is_some_and(Value::is_null);
    let binaries =
        of_kind("bin").filter(|_| own).filter_map(|target| target.get("name")?.as_str().map(str::to_owned));
    let roots = of_kind("bin").chain(of_kind("lib")).filter(|_| own);
    let crate_roots = roots.filter_map(|target| Some(target.get("src_path")?.as_str()?.into()));
    let package = Package {
        links: text("links"),
        build_script: of_kind("custom-build").next().is_some(),
        license: text("license"),
        source: text("source"),
        binaries: binaries.collect(),
        crate_roots: crate_roots.collect(),
    };
    Some(((text("name")?, text("version")?), package))
}
