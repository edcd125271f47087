//! The no-C gate, run as a person runs it.

use std::path::Path;
use std::process::{Command, Output};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn gate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("no-c").args(args).current_dir(WORKSPACE);
    command.output().expect("xtask starts")
}

/// A package with this dependency, in a folder of its own.
fn package(folder: &Path, dependency: &str) -> String {
    let manifest = folder.join("Cargo.toml");
    let text = format!(
        "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{dependency}\n"
    );
    std::fs::write(&manifest, text).expect("manifest");
    std::fs::create_dir(folder.join("src")).expect("src");
    std::fs::write(folder.join("src/lib.rs"), "").expect("lib.rs");
    // The workspace's versions, so that the test needs few downloads and sees the same today and next year.
    std::fs::copy(Path::new(WORKSPACE).join("Cargo.lock"), folder.join("Cargo.lock")).expect("lock");
    manifest.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn the_workspace_passes() {
    let output = gate(&[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn rskafka_with_its_default_features_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = package(folder.path(), "rskafka = \"=0.6.0\"");
    let output = gate(&["--manifest-path", &manifest, "--package", "probe"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for library in ["lz4-sys", "zstd-sys"] {
        let line = said.lines().find(|line| line.starts_with(library));
        let line = line.unwrap_or_else(|| panic!("no line for {library}: {said}"));
        assert!(line.contains("links the native library") && line.contains("> rskafka 0.6.0 >"), "{line}");
    }
    assert!(said.lines().any(|line| line.starts_with("cc ")), "{said}");
}

#[test]
fn a_feature_that_only_tests_use_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let pure = "rskafka = { version = \"=0.6.0\", default-features = false }\n[dev-dependencies]\nrskafka = \"=0.6.0\"";
    let manifest = package(folder.path(), pure);
    let output = gate(&["--manifest-path", &manifest, "--package", "probe"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_shipped_binary_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = package(folder.path(), "");
    let output = gate(&["--manifest-path", &manifest]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("task-api"));
}
