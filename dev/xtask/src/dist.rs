//! What is shipped: static binaries for each target, their checksums, and a bill of materials; signed, where
//! DIST_SIGNING_KEY names an SSH key.
//!
//! The same sources, lock file and toolchain give the same bytes, in whatever folder: paths are left out
//! of the binaries and of their lists of crates, the linker is the toolchain's own, and nothing here knows the time.

use crate::Result;
use crate::audit_data;
use crate::cargo::{self, Metadata};
use crate::graph::Crate;
use crate::sbom;
use crate::shipped::{self, BINARIES, DEMO_BINARIES};
use crate::static_build;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The folder that is emptied and filled.
const DIST: &str = "dist";
const SUMS: &str = "SHA256SUMS";
/// The variable that names the private SSH key of whoever releases.
const SIGNING_KEY: &str = "DIST_SIGNING_KEY";
/// For what a signature holds (`ssh-keygen -Y`): one for something else does not do.
const NAMESPACE: &str = "task-events";

/// Builds everything that is shipped into the folder `dist` of the workspace.
pub fn run() -> Result<()> {
    let metadata = Metadata::read(None, &[shipped::MUSL])?;
    let dist = metadata.workspace_root.join(DIST);
    if dist.exists() {
        fs::remove_dir_all(&dist).map_err(|error| cannot("empty", &dist, &error))?;
    }
    let all = [BINARIES, DEMO_BINARIES].concat();
    let mut sums = String::new();
    let mut crates: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
    for platform in shipped::PLATFORMS {
        let built = static_build::build(&metadata, &all, platform.target)?;
        let folder = dist.join(platform.name);
        fs::create_dir_all(&folder).map_err(|error| cannot("make", &folder, &error))?;
        for name in &all {
            let program = built.join(name);
            let size = static_build::check_static(&program)?;
            let bytes = fs::read(&program).map_err(|error| cannot("read", &program, &error))?;
            fs::copy(&program, folder.join(name)).map_err(|error| cannot("copy", &program, &error))?;
            add_sum(&mut sums, &bytes, &format!("{}/{name}", platform.name))?;
            crates.entry(name).or_default().extend(audit_data::crates(&folder.join(name))?);
            println!("{}/{name}: static-pie, {:.1} MB", platform.name, size as f64 / 1e6);
        }
    }
    let bill = sbom::bill(&metadata, &all)?;
    for (binary, crates) in &crates {
        let package = metadata.package_of_binary(binary).unwrap_or_default();
        compare(binary, crates, &sbom::made_from(&bill, package)?)?;
    }
    add_sum(&mut sums, bill.as_bytes(), sbom::FILE)?;
    write(&dist.join(sbom::FILE), &bill)?;
    write(&dist.join(SUMS), &sums)?;
    let signature = match std::env::var_os(SIGNING_KEY).filter(|key| !key.is_empty()) {
        Some(key) => sign(&dist.join(SUMS), Path::new(&key))?,
        None => format!("not signed: set {SIGNING_KEY} to an SSH key"),
    };
    // The empty folder that an image has for state: with an owner of its own, so that a volume gets it too.
    let state = dist.join("state");
    fs::create_dir_all(&state).map_err(|error| cannot("make", &state, &error))?;
    println!("{}: {SUMS} ({signature}), {}", dist.display(), sbom::FILE);
    Ok(())
}

/// Wants the crates that a binary lists, on all platforms, to be those of the bill.
fn compare(binary: &str, listed: &BTreeSet<Crate>, billed: &BTreeSet<Crate>) -> Result<()> {
    let one = listed.symmetric_difference(billed).next();
    one.map_or(Ok(()), |one| {
        Err(format!(
            "{one} is listed by {binary} or by {}, not by both; both are of dev/xtask/src/graph.rs",
            sbom::FILE
        ))
    })
}

/// Signs a file into one beside it, as `ssh-keygen -Y verify` reads it, and says so.
fn sign(file: &Path, key: &Path) -> Result<String> {
    let mut command = Command::new("ssh-keygen");
    cargo::output(command.args(["-Y", "sign", "-q", "-n", NAMESPACE, "-f"]).arg(key).arg(file))?;
    Ok(format!("signed: {SUMS}.sig"))
}

/// A line as `sha256sum --check` reads it.
fn add_sum(sums: &mut String, bytes: &[u8], name: &str) -> Result<()> {
    writeln!(sums, "{:x}  {name}", Sha256::digest(bytes)).map_err(|error| error.to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_the_file_as_it_was_signed_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [key, sums, signers] = ["key", SUMS, "signers"].map(|name| folder.path().join(name));
        let keygen = || Command::new("ssh-keygen");
        cargo::output(keygen().args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).unwrap();
        write(&sums, "a sum\n").unwrap();
        sign(&sums, &key).unwrap();
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        write(&signers, &format!("releases@example.org {public}")).unwrap();
        let verify = |namespace: &str| {
            let mut command = keygen();
            command.args(["-Y", "verify", "-I", "releases@example.org", "-n", namespace, "-f"]);
            command.arg(&signers).arg("-s").arg(sums.with_extension("sig"));
            command.stdin(fs::File::open(&sums).unwrap());
            cargo::output(&mut command)
        };
        verify(NAMESPACE).unwrap();
        verify("git").unwrap_err();
        write(&sums, "another sum\n").unwrap();
        verify(NAMESPACE).unwrap_err();
        sign(&sums, &folder.path().join("no-key")).unwrap_err();
    }

    #[test]
    fn the_bill_has_what_the_binaries_list_and_a_crate_in_one_of_them_alone_is_named() {
        let metadata = Metadata::read(None, &[shipped::MUSL]).unwrap();
        let bill = sbom::bill(&metadata, BINARIES).unwrap();
        let mut listed: BTreeMap<String, BTreeSet<Crate>> = BTreeMap::new();
        for platform in shipped::PLATFORMS {
            for (binary, list) in audit_data::lists(&metadata, BINARIES, platform.target).unwrap() {
                let crates = list.packages.into_iter();
                let crates = crates.map(|one| Crate { name: one.name, version: one.version.to_string() });
                listed.entry(binary).or_default().extend(crates);
            }
        }
        for (binary, mut crates) in listed {
            let billed = sbom::made_from(&bill, metadata.package_of_binary(&binary).unwrap()).unwrap();
            compare(&binary, &crates, &billed).unwrap();
            let gone = crates.pop_first().unwrap();
            let error = compare(&binary, &crates, &billed).unwrap_err();
            assert!(error.starts_with(&gone.to_string()), "{error}");
        }
    }

    #[test]
    fn a_sum_is_what_sha256sum_says() {
        let mut sums = String::new();
        add_sum(&mut sums, b"abc", "x/abc").unwrap();
        assert_eq!(sums, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  x/abc\n");
    }
}
