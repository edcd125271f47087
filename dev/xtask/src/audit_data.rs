//! The list of crates in each shipped binary: its section `.dep-v0`, as cargo-auditable defines it and `cargo audit bin`
//! and other scanners read it.
//!
//! - *It lists what the binary was made from*, as the tree of the very build has it. cargo-auditable itself asks
//!   `cargo metadata`, which adds what only tests use: it would list ring and cc, which nothing shipped has.
//! - *What is linked is what was asked for*: [`check`] reads it back from each binary.
//! - *The same sources have the same bytes*: sorted, without a time or a path, by crates that Cargo.lock names.

use crate::Result;
use crate::cargo::{Metadata, Package};
use crate::graph::{Crate, Edges, Graph};
use crate::shipped;
use auditable_serde::{DependencyKind, Package as Entry, Source, VersionInfo};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use object::elf::{self, SHT_PROGBITS};
use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionFlags, SectionKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

const SECTION: &[u8] = b".dep-v0";
/// The revision of the format whose data is exact.
const EXACT: u32 = 8;
/// Largest list that is read, in bytes; one has some 30,000.
const MAX_LIST: usize = 1 << 20;
/// The registry of crates.io, as cargo names it.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What each of these binaries is made from, on one target.
pub fn lists(metadata: &Metadata, binaries: &[&str], target: &str) -> Result<BTreeMap<String, VersionInfo>> {
    let packages = shipped::packages_of(metadata, binaries)?;
    let all = Graph::read(&packages, target, Edges::All)?;
    let runtime = Graph::read(&packages, target, Edges::Runtime)?;
    let list = |binary: &&str| {
        let package = metadata.package_of_binary(binary);
        let root = all.roots.iter().find(|root| Some(root.name.as_str()) == package);
        let root = root.ok_or_else(|| format!("cargo tree does not list the package of {binary}"))?;
        Ok(((*binary).to_owned(), list(metadata, root, &all, &runtime)?))
    };
    binaries.iter().map(list).collect()
}

fn list(metadata: &Metadata, root: &Crate, all: &Graph, runtime: &Graph) -> Result<VersionInfo> {
    let crates: Vec<_> = all.below(root).into_iter().collect();
    let place: BTreeMap<_, _> = crates.iter().enumerate().map(|(place, found)| (*found, place)).collect();
    let in_binary = runtime.below(root);
    let entry = |found: &&Crate| {
        let unknown = || format!("cargo metadata has no {found}");
        let used = all.uses.get(*found).into_iter().flatten();
        Ok(Entry {
            name: found.name.clone(),
            version: found.version.parse().map_err(|error| format!("the version of {found}: {error}"))?,
            source: source(metadata.package(&found.name, &found.version).ok_or_else(unknown)?),
            kind: if in_binary.contains(found) { DependencyKind::Runtime } else { DependencyKind::Build },
            dependencies: used.filter_map(|used| place.get(used).copied()).collect(),
            root: *found == root,
        })
    };
    Ok(VersionInfo { packages: crates.iter().map(entry).collect::<Result<_>>()?, format: EXACT })
}

fn source(package: &Package) -> Source {
    match package.source.as_deref() {
        None => Source::Local,
        Some(CRATES_IO) => Source::CratesIo,
        Some(other) if other.starts_with("git+") => Source::Git,
        Some(_) => Source::Registry,
    }
}

/// Writes a folder of object files with these lists, one a binary.
pub fn write_objects(lists: &BTreeMap<String, VersionInfo>, target: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (binary, list) in lists {
        let path = folder.join(format!("{binary}.o"));
        let cannot = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = object(&compressed(list).map_err(cannot)?, target)?;
        fs::write(&path, file).map_err(cannot)?;
    }
    Ok(())
}

fn compressed(list: &VersionInfo) -> std::io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&serde_json::to_vec(list)?)?;
    encoder.finish()
}

/// An object file that has these bytes as its only section.
fn object(data: &[u8], target: &str) -> Result<Vec<u8>> {
    let architecture = match target.split('-').next() {
        Some("x86_64") => Architecture::X86_64,
        Some("aarch64") => Architecture::Aarch64,
        _ => return Err(format!("{target} is not known; add its processor in dev/xtask/src/audit_data.rs")),
    };
    let mut file = Object::new(BinaryFormat::Elf, architecture, Endianness::Little);
    let segment = file.segment_name(StandardSegment::Data).to_vec();
    let section = file.add_section(segment, SECTION.to_vec(), SectionKind::ReadOnlyData);
    // In the file alone, not in memory when the program runs; a linker keeps such a section as it is.
    file.section_mut(section).flags =
        SectionFlags::Elf { sh_type: SHT_PROGBITS, sh_flags: elf::SectionFlags(0) };
    file.append_section_data(section, data, 1);
    file.write().map_err(|error| format!("an object file for {target} cannot be made: {error}"))
}

/// The list that a binary holds.
fn read(program: &Path) -> Result<VersionInfo> {
    let bytes = fs::read(program).map_err(|error| format!("{}: {error}", program.display()))?;
    auditable_info::audit_info_from_slice(&bytes, MAX_LIST).map_err(|error| {
        format!("{} has no list of its crates: {error}; look at dev/xtask/src/linker.rs", program.display())
    })
}

/// Fails unless a binary holds this list.
pub fn check(program: &Path, list: &VersionInfo) -> Result<()> {
    if read(program)? == *list {
        return Ok(());
    }
    Err(format!(
        "{} has another list of crates than it was made from; it was linked earlier: remove it and {}/deps, and build again",
        program.display(),
        program.parent().unwrap_or(program).display()
    ))
}

/// The crates in the list that a binary holds.
pub fn crates(program: &Path) -> Result<BTreeSet<Crate>> {
    let packages = read(program)?.packages.into_iter();
    Ok(packages.map(|one| Crate { name: one.name, version: one.version.to_string() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo;
    use crate::shipped::{BINARIES, MUSL, PLATFORMS};
    use std::process::Command;

    #[test]
    fn a_linked_and_stripped_binary_holds_its_list_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [source, program, plain] = ["x.rs", "x", "plain"].map(|name| folder.path().join(name));
        fs::write(&source, "fn main() {}").unwrap();
        let entry = |name: &str, root| Entry {
            name: name.to_owned(),
            version: "1.2.3+c.4".parse().unwrap(),
            source: Source::CratesIo,
            kind: DependencyKind::Runtime,
            dependencies: if root { vec![0] } else { vec![] },
            root,
        };
        let list = VersionInfo { packages: vec![entry("a", false), entry("b", true)], format: EXACT };
        let own = format!("{}-", std::env::consts::ARCH);
        write_objects(&[("x".to_owned(), list.clone())].into(), &own, folder.path()).unwrap();
        let rustc = || {
            let mut command = Command::new("rustc");
            command.args(["-O", "-Cstrip=symbols"]).arg(&source).arg("-o");
            command
        };
        let object = format!("-Clink-arg={}", folder.path().join("x.o").display());
        cargo::output(rustc().arg(&program).arg(object)).unwrap();
        cargo::output(rustc().arg(&plain)).unwrap();
        check(&program, &list).unwrap();
        assert_eq!(crates(&program).unwrap().len(), 2);
        let other = VersionInfo { packages: vec![entry("b", true)], format: EXACT };
        assert!(check(&program, &other).unwrap_err().contains("another list"));
        assert!(check(&plain, &list).unwrap_err().contains("has no list of its crates"));
    }

    #[test]
    fn each_shipped_binary_lists_what_it_is_made_from_and_nothing_that_only_tests_use() {
        let metadata = Metadata::read(None, &[MUSL]).unwrap();
        for platform in PLATFORMS {
            let lists = lists(&metadata, BINARIES, platform.target).unwrap();
            assert_eq!(lists.len(), BINARIES.len());
            for (binary, list) in lists {
                let kinds = |name| -> Vec<_> {
                    list.packages.iter().filter(|one| one.name == name).map(|one| one.kind).collect()
                };
                let roots: Vec<_> = list.packages.iter().filter(|one| one.root).collect();
                assert_eq!(roots.len(), 1, "{binary}");
                assert_eq!((&roots[0].source, roots[0].kind), (&Source::Local, DependencyKind::Runtime));
                assert_eq!(kinds("tokio"), [DependencyKind::Runtime], "{binary}");
                // A procedural macro, and what only such ones use.
                assert_eq!(kinds("tokio-macros"), [DependencyKind::Build], "{binary}");
                assert_eq!(kinds("unicode-ident"), [DependencyKind::Build], "{binary}");
                // What `cargo metadata` adds for the tests' features, and what tests alone use.
                let tests = ["cc", "ring", "proptest"].map(kinds);
                assert_eq!(tests, [const { Vec::new() }; 3], "{binary}");
                // As a reader of the format takes it: one root, no circle.
                let text = serde_json::to_string(&list).unwrap();
                assert_eq!(text.parse::<VersionInfo>().unwrap(), list);
            }
        }
    }
}
