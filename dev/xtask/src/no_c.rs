//! The no-C gate: nothing in the normal and build tree of what is shipped compiles or links C.
//!
//! The tree is `cargo tree`'s, because it resolves features as `cargo build` of these packages does;
//! `cargo metadata` unifies them with those of the tests. What a package *is* (its `links` key, its
//! build script) comes from `cargo metadata`.

use crate::Result;
use crate::cargo::{self, Metadata};
use crate::shipped;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates whose only purpose is to compile, find or bind C from a build script.
const C_TOOLS: &[&str] = &[
    "autotools",
    "bindgen",
    "cc",
    "cmake",
    "cpp_build",
    "cxx-build",
    "gcc",
    "nasm-rs",
    "pkg-config",
    "system-deps",
    "vcpkg",
];

/// Crates that have a `links` key and still neither compile nor link C, each with its reason. (A few
/// crates set the key only so that cargo refuses two copies of them.) Empty: none is in the tree.
const LINKS_WITHOUT_C: &[(&str, &str)] = &[];

/// What to look at.
#[derive(clap::Args)]
pub struct Options {
    /// The Cargo.toml of another workspace.
    #[arg(long)]
    manifest_path: Option<PathBuf>,
    /// The packages to look at, instead of those that hold the shipped binaries.
    #[arg(long = "package", short)]
    packages: Vec<String>,
}

/// Prints a line for each crate that brings C in; an error if there is one.
pub fn run(options: &Options) -> Result<()> {
    let manifest_path = options.manifest_path.as_deref();
    let targets = [shipped::MUSL, shipped::GNU];
    let metadata = Metadata::read(manifest_path, &targets)?;
    let packages = if options.packages.is_empty() {
        shipped::packages_of(&metadata, shipped::BINARIES)?
    } else {
        options.packages.clone()
    };

    // By crate, so that one in the trees of both targets is reported once.
    let mut crates = BTreeSet::new();
    let mut findings = BTreeMap::new();
    for target in targets {
        for path in paths(&tree(manifest_path, &packages, target)?)? {
            let Some(last) = path.last() else { continue };
            crates.insert(last.clone());
            if let Some(reason) = brings_c(&path, &metadata) {
                findings.entry(last.clone()).or_insert((reason, path));
            }
        }
    }

    for (found, (reason, path)) in &findings {
        let way = path.iter().map(Crate::to_string).collect::<Vec<_>>().join(" > ");
        println!(
            "{found} {reason}: {way}: turn off the feature that brings it in, or use a crate in pure Rust"
        );
    }
    let looked_at = format!("{} crates in the trees of {}", crates.len(), packages.join(", "));
    if findings.is_empty() {
        println!("no C: {looked_at}");
        Ok(())
    } else {
        Err(format!("{} of {looked_at} bring C in", findings.len()))
    }
}

/// Why the last crate of a path counts as C, if it does.
fn brings_c(path: &[Crate], metadata: &Metadata) -> Option<String> {
    let last = path.last()?;
    if C_TOOLS.contains(&last.name.as_str()) {
        return Some("compiles or finds C".to_owned());
    }
    let package = metadata.package(&last.name, &last.version)?;
    if let Some(library) = &package.links
        && !LINKS_WITHOUT_C.iter().any(|(name, _)| *name == last.name)
    {
        return Some(format!("links the native library {library}"));
    }
    // A -sys crate without a build script (linux-raw-sys) only declares things.
    (last.name.ends_with("-sys") && package.build_script)
        .then(|| "is a -sys crate with a build script".to_owned())
}

/// A crate in a tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl std::fmt::Display for Crate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// `cargo tree` with each line's depth in front: `0task-api v0.1.0 (…)`.
pub fn tree(manifest_path: Option<&Path>, packages: &[String], target: &str) -> Result<String> {
    let mut command = cargo::cargo();
    command.args([
        "tree",
        "--edges",
        "normal,build",
        "--prefix",
        "depth",
        "--format",
        "{p}",
        "--target",
        target,
    ]);
    for package in packages {
        command.args(["--package", package]);
    }
    if let Some(path) = manifest_path {
        command.arg("--manifest-path").arg(path);
    }
    cargo::output(&mut command)
}

/// The path from a root to the crate of each line. Cargo leaves out what is below a repeated crate,
/// so each crate's own dependencies are listed where it first appears.
pub fn paths(tree: &str) -> Result<Vec<Vec<Crate>>> {
    let mut path: Vec<Crate> = Vec::new();
    let mut all = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (depth, found) = read_line(line)
            .ok_or_else(|| format!("this line of cargo tree is not in the known form: {line}"))?;
        path.truncate(depth);
        path.push(found);
        all.push(path.clone());
    }
    Ok(all)
}

/// `2zstd-sys v2.0.16+zstd.1.5.7 (*)` is depth 2, zstd-sys, 2.0.16+zstd.1.5.7. No crate's name starts
/// with a digit.
fn read_line(line: &str) -> Option<(usize, Crate)> {
    let start = line.find(|c: char| !c.is_ascii_digit())?;
    let (depth, rest) = line.split_at(start);
    let mut words = rest.split(' ');
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('v')?.to_owned();
    Some((depth.parse().ok()?, Crate { name, version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_from_the_root_to_each_crate() {
        let tree =
            "0a v1.0.0 (/somewhere)\n1b v2.0.0\n2c-sys v3.0.0+c.9 (*)\n1d v4.0.0 (proc-macro)\n\n0e v5.0.0\n";
        let shown: Vec<String> = paths(tree)
            .unwrap()
            .iter()
            .map(|path| path.iter().map(Crate::to_string).collect::<Vec<_>>().join(" > "))
            .collect();
        assert_eq!(
            shown,
            [
                "a 1.0.0",
                "a 1.0.0 > b 2.0.0",
                "a 1.0.0 > b 2.0.0 > c-sys 3.0.0+c.9",
                "a 1.0.0 > d 4.0.0",
                "e 5.0.0"
            ]
        );
    }

    #[test]
    fn an_unknown_line_is_an_error_and_not_a_crate_that_passes() {
        assert!(paths("0a v1.0.0\n[build-dependencies]\n").is_err());
    }
}
