//! The bill of materials of the binaries, in CycloneDX's JSON: every crate that they are made from, with
//! its licence, its checksum in Cargo.lock, and what it depends on. No time and no random serial number, so
//! that the same sources have the same bill.

use crate::Result;
use crate::cargo::Metadata;
use crate::graph::{Crate, Edges, Graph};
use crate::shipped;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What the file is called.
pub const FILE: &str = "task-events.cdx.json";
/// What the whole is called within it.
const WHOLE: &str = "task-events-release";

/// The bill of these binaries on all platforms.
pub fn bill(metadata: &Metadata, binaries: &[&str]) -> Result<String> {
    let packages = shipped::packages_of(metadata, binaries)?;
    let mut graph = Graph::default();
    for platform in shipped::PLATFORMS {
        graph.join(Graph::read(&packages, platform.target, Edges::All)?);
    }
    let lock = metadata.workspace_root.join("Cargo.lock");
    let lock =
        fs::read_to_string(&lock).map_err(|error| format!("{} cannot be read: {error}", lock.display()))?;
    let checksums = checksums(&lock);
    let components = graph.uses.keys().map(|found| component(found, metadata, &checksums));
    let uses = |name: String, used: &BTreeSet<Crate>| json!({"ref": name, "dependsOn": used.iter().map(purl).collect::<Vec<_>>()});
    let whole = uses(WHOLE.to_owned(), &graph.roots);
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": WHOLE, "name": "task-events", "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": components.collect::<Vec<_>>(),
        "dependencies": std::iter::once(whole)
            .chain(graph.uses.iter().map(|(user, used)| uses(purl(user), used)))
            .collect::<Vec<_>>(),
    });
    Ok(format!("{bill:#}\n"))
}

fn component(found: &Crate, metadata: &Metadata, checksums: &BTreeMap<Crate, String>) -> Value {
    let purl = purl(found);
    let license = metadata.package(&found.name, &found.version).and_then(|package| package.license.as_ref());
    // The slash is how cargo once wrote OR.
    let license = license.map(|license| license.replace(" / ", " OR ").replace('/', " OR "));
    let checksum = checksums.get(found);
    json!({
        "type": "library", "bom-ref": purl, "purl": purl, "name": found.name, "version": found.version,
        "licenses": license.iter().map(|license| json!({"expression": license})).collect::<Vec<_>>(),
        "hashes": checksum.iter().map(|sum| json!({"alg": "SHA-256", "content": sum})).collect::<Vec<_>>(),
    })
}

fn purl(found: &Crate) -> String {
    // A plus in a version would be read as a space.
    format!("pkg:cargo/{}@{}", found.name, found.version.replace('+', "%2B"))
}

/// The crates that a package is made from, as a bill says.
pub fn made_from(bill: &str, package: &str) -> Result<BTreeSet<Crate>> {
    let bill: Value = serde_json::from_str(bill).map_err(|error| format!("{FILE} is no JSON: {error}"))?;
    let list = |key: &str| bill.get(key).and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let crates: BTreeMap<_, _> = list("components")
        .filter_map(|one| {
            Some((text(one, "bom-ref")?, Crate { name: text(one, "name")?, version: text(one, "version")? }))
        })
        .collect();
    let mut graph = Graph::default();
    for one in list("dependencies") {
        let used = one.get("dependsOn").and_then(Value::as_array).into_iter().flatten();
        let used = used.filter_map(|used| crates.get(used.as_str()?).cloned());
        if let Some(user) = text(one, "ref").and_then(|user| crates.get(&user).cloned()) {
            graph.uses.insert(user, used.collect());
        }
    }
    let root = graph.uses.keys().find(|found| found.name == package);
    let root = root.ok_or_else(|| format!("{FILE} has no package {package}"))?;
    Ok(graph.below(root).into_iter().cloned().collect())
}

/// The checksums in a lock file. The workspace's own crates have none.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let field = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
                Some(line?.strip_suffix('"')?.to_owned())
            };
            Some((Crate { name: field("name")?, version: field("version")? }, field("checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_of_the_tree_has_a_component_and_each_of_a_registry_its_checksum() {
        let metadata = Metadata::read(None, &[shipped::MUSL]).unwrap();
        let text = bill(&metadata, shipped::BINARIES).unwrap();
        let bill: Value = serde_json::from_str(&text).unwrap();
        let components = bill["components"].as_array().unwrap();
        assert!(components.len() > 100, "{}", components.len());
        for component in components {
            assert_eq!(component["licenses"].as_array().unwrap().len(), 1, "{component}");
            let own = metadata.is_own(component["name"].as_str().unwrap());
            assert_eq!(component["hashes"].as_array().unwrap().len(), usize::from(!own), "{component}");
        }
        let known: BTreeSet<_> =
            components.iter().map(|component| &component["bom-ref"]).map(Value::to_string).collect();
        for dependency in bill["dependencies"].as_array().unwrap() {
            for used in dependency["dependsOn"].as_array().unwrap() {
                assert!(known.contains(&used.to_string()), "{used}");
            }
        }
        assert_eq!(text, super::bill(&metadata, shipped::BINARIES).unwrap());
    }
}
