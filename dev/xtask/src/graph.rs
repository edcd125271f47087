//! What packages are made from, as cargo resolves it for one build of all of them: crates, and which uses which.

use crate::Result;
use crate::cargo;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crates and the crates that each uses.
#[derive(Default)]
pub struct Graph {
    /// The packages that were asked for.
    pub roots: BTreeSet<Crate>,
    /// Of each crate those that it uses.
    pub uses: BTreeMap<Crate, BTreeSet<Crate>>,
}

impl Graph {
    /// That of these packages of this workspace.
    pub fn read(packages: &[String], target: &str, edges: Edges) -> Result<Self> {
        Self::parse(&tree(None, packages, target, edges)?)
    }

    fn parse(tree: &str) -> Result<Self> {
        let mut graph = Self::default();
        for path in paths(tree)? {
            let Some((last, before)) = path.split_last() else { continue };
            graph.uses.entry(last.clone()).or_default();
            match before.last() {
                Some(user) => graph.uses.entry(user.clone()).or_default().insert(last.clone()),
                None => graph.roots.insert(last.clone()),
            };
        }
        Ok(graph)
    }

    /// Adds what another graph has.
    pub fn join(&mut self, other: Self) {
        self.roots.extend(other.roots);
        for (user, used) in other.uses {
            self.uses.entry(user).or_default().extend(used);
        }
    }

    /// A crate and all that it is made from.
    pub fn below<'a>(&'a self, root: &'a Crate) -> BTreeSet<&'a Crate> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![root];
        while let Some(next) = waiting.pop() {
            if found.insert(next) {
                waiting.extend(self.uses.get(next).into_iter().flatten());
            }
        }
        found
    }
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

/// Which dependencies are followed.
#[derive(Clone, Copy)]
pub enum Edges {
    /// All that a build compiles.
    All,
    /// What is in the binaries: neither build scripts' dependencies nor procedural macros.
    Runtime,
}

/// `cargo tree` with each line's depth in front: `0task-api v0.1.0 (…)`.
pub fn tree(manifest_path: Option<&Path>, packages: &[String], target: &str, edges: Edges) -> Result<String> {
    let edges = match edges {
        Edges::All => "normal,build",
        Edges::Runtime => "normal,no-proc-macro",
    };
    let mut command = cargo::cargo();
    command.args(["tree", "--edges", edges, "--prefix", "depth", "--format", "{p}", "--target", target]);
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

    #[test]
    fn what_is_below_a_crate_is_found_where_it_was_listed_first() {
        let graph =
            Graph::parse("0a v1.0.0\n1b v1.0.0\n2c v1.0.0\n0d v1.0.0\n1b v1.0.0 (*)\n1e v1.0.0\n").unwrap();
        let below = |name: &str| {
            let root = graph.roots.iter().find(|root| root.name == name).unwrap();
            graph.below(root).iter().map(|found| found.name.as_str()).collect::<String>()
        };
        assert_eq!([below("a"), below("d")], ["abc", "bcde"]);
    }
}
