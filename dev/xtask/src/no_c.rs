//! The no-C gate: nothing in the normal and build tree of what is shipped compiles or links C.
//!
//! The tree is `cargo tree`'s, because it resolves features as `cargo build` of these packages does;
//! `cargo metadata` unifies them with those of the tests. What a package *is* (its `links` key, its
//! build script) comes from `cargo metadata`.

use crate::Result;
use crate::cargo::Metadata;
use crate::graph::{self, Crate, Edges};
use crate::shipped;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
        for path in graph::paths(&graph::tree(manifest_path, &packages, target, Edges::All)?)? {
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
