//! The structure of the sources: dependencies between files point one way, and files stay short.
//!
//! - In no crate of the workspace do source files import each other, directly or by way of others. A file that
//!   names something *imports the file that defines it*, whichever re-exports the name goes through. A module
//!   and its parts are no exception. Not an import: a declaration, a re-export and a method call, which name
//!   nothing; tests.
//! - No shipped code may panic on what it is given: each root file of a shipped crate denies the lints of
//!   [`DENIED`], tests left out.
//! - No source file of a shipped crate has more than [`MAX_LINES`] lines, tests included.

mod graph;
mod modules;
mod names;

use crate::Result;
use crate::cargo::Metadata;
use crate::shipped;
use std::path::{Path, PathBuf};

/// A file that is longer does two jobs, or one that should be split.
const MAX_LINES: usize = 400;

/// What may panic.
const DENIED: [&str; 3] = ["clippy::unwrap_used", "clippy::expect_used", "clippy::panic"];

/// Prints a line for each circle and each file that is too long; an error if there is one.
pub fn run() -> Result<()> {
    let metadata = Metadata::read(None, &[shipped::MUSL])?;
    let root = &metadata.workspace_root;
    let (mut findings, mut files) = (Vec::new(), 0);
    for crate_root in metadata.own_crate_roots() {
        let sources = modules::Crate::read(crate_root)?;
        files += sources.files.len();
        findings.extend(circles(&sources, root));
        if shipped::SOURCES.iter().any(|folder| crate_root.starts_with(root.join(folder))) {
            findings.extend(undenied(&modules::read(crate_root)?, crate_root, root));
        }
    }
    for folder in shipped::SOURCES {
        findings.extend(too_long(&root.join(folder))?.iter().map(|finding| relative(finding, root)));
    }
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.len() {
        0 => {
            println!(
                "layers: {files} source files, none imports its importer, none that is shipped is over {MAX_LINES} lines"
            );
            Ok(())
        }
        count => Err(format!(
            "{count} findings in {files} source files: move the type that two files need below both, or split the file by job"
        )),
    }
}

/// A line for each circle of imports of a crate.
fn circles(sources: &modules::Crate, root: &Path) -> Vec<String> {
    let imports = names::imports(sources);
    let shown = |file: usize| match sources.files.get(file) {
        Some(path) => relative(&path.display().to_string(), root),
        None => String::new(),
    };
    let describe = |circle: &[usize]| {
        let next = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(next).map(|(from, to)| {
            let name = imports.get(&(*from, *to)).map_or("", String::as_str);
            format!("{} imports {name} of {}", shown(*from), shown(*to))
        });
        format!("circle: {}", steps.collect::<Vec<_>>().join(", "))
    };
    graph::circles(imports.keys().copied()).iter().map(|circle| describe(circle)).collect()
}

/// A line for a root file that does not deny what it should.
fn undenied(text: &str, path: &Path, root: &Path) -> Option<String> {
    let missing: Vec<_> = DENIED.into_iter().filter(|lint| !text.contains(lint)).collect();
    let path = relative(&path.display().to_string(), root);
    (!missing.is_empty()).then(|| format!("lints: {path} does not deny {}", missing.join(", ")))
}

/// A line for each Rust file below a folder that has more than [`MAX_LINES`] lines.
fn too_long(folder: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let cannot = |error| format!("{} cannot be read: {error}", folder.display());
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(cannot)? {
            entries.push(entry.map_err(cannot)?.path());
        }
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = modules::read(&path)?.lines().count();
                if lines > MAX_LINES {
                    findings.push(format!("too long: {} has {lines} lines of {MAX_LINES}", path.display()));
                }
            }
        }
    }
    Ok(findings)
}

fn relative(text: &str, root: &Path) -> String {
    text.replace(&format!("{}/", root.display()), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate of these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sources = modules::Crate::read(&folder.path().join("lib.rs")).unwrap();
        circles(&sources, folder.path())
    }

    #[test]
    fn files_that_import_each_other_are_named_with_what_they_import() {
        let found = found(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            ("b.rs", "pub struct B; fn f(_: super::a::A) {}"),
        ]);
        assert_eq!(found, ["circle: a.rs imports B of b.rs, b.rs imports A of a.rs"]);
    }

    #[test]
    fn a_circle_of_three_by_way_of_a_re_export_a_glob_and_a_macro_is_found() {
        let found = found(&[
            ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
            ("a.rs", "pub struct A; fn f() { println!(\"{}\", crate::b::ONE); }"),
            ("b.rs", "use crate::c::*; pub const ONE: Two = TWO;"),
            ("c.rs", "pub type Two = u8; pub const TWO: u8 = 2; use crate::A; impl A {}"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("c.rs imports A of a.rs"), "{found:?}");
    }

    #[test]
    fn a_module_and_its_part_that_import_each_other_are_found() {
        let found = found(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod deep; pub struct A; fn f() { deep::g() }"),
            ("a/deep.rs", "use super::A; pub fn g(_: A) {}"),
        ]);
        assert_eq!(found, ["circle: a.rs imports g of a/deep.rs, a/deep.rs imports A of a.rs"]);
    }

    #[test]
    fn a_module_that_only_declares_and_re_exports_its_parts_does_not_count_and_neither_do_tests() {
        let found = found(&[
            ("lib.rs", "mod a; pub use a::A; pub const ROOT: u8 = 1;"),
            (
                "a.rs",
                "mod deep; mod low; pub use deep::D; pub struct A([u8; crate::ROOT as usize]); #[cfg(test)] mod tests { use super::deep::D; }",
            ),
            ("a/deep.rs", "use super::low::LOW; use super::A; pub struct D(A, [u8; LOW as usize]);"),
            ("a/low.rs", "pub const LOW: u8 = crate::ROOT;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_variable_that_is_called_like_something_imported_is_no_import_and_a_call_of_it_elsewhere_is() {
        let low = ("a/low.rs", "use super::A; pub fn id(a: A) -> u8 { 1 }");
        let a = "mod low; pub use low::id; pub struct A; fn f(id: u8) -> u8 { println!(\"{}\", id); id }";
        assert_eq!(found(&[("lib.rs", "mod a;"), ("a.rs", a), low]), Vec::<String>::new());
        let found = found(&[("lib.rs", "mod a;"), ("a.rs", &format!("{a} fn g() {{ id(A); }}")), low]);
        assert_eq!(found, ["circle: a.rs imports id of a/low.rs, a/low.rs imports A of a.rs"]);
    }

    #[test]
    fn a_root_that_denies_too_little_is_named() {
        let path = Path::new("/w/api/src/main.rs");
        let root = "#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]";
        assert_eq!(undenied(root, path, Path::new("/w")), None);
        let found = undenied("#![deny(clippy::panic)]", path, Path::new("/w")).unwrap();
        assert_eq!(found, "lints: api/src/main.rs does not deny clippy::unwrap_used, clippy::expect_used");
    }

    #[test]
    fn only_a_file_over_the_limit_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("short.rs"), "\n".repeat(MAX_LINES)).unwrap();
        std::fs::write(folder.path().join("deep/long.rs"), "\n".repeat(MAX_LINES + 1)).unwrap();
        let found = too_long(folder.path()).unwrap();
        assert!(found.len() == 1 && found[0].contains("deep/long.rs has 401 lines"), "{found:?}");
    }
}
