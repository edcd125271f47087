//! The script that knows the documented format alone, on logs of each form that docs/audit-proof.md names.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Output};

use audit_tree::{Checkpoint, Rows, Signer, leaf_hash};
use tempfile::TempDir;

/// Files and their lines, in the order in which these are entries.
type Files<'a> = &'a [(&'a str, &'a [u32])];

struct Log(TempDir);

impl Log {
    /// A log of these files, with a signed checkpoint of all their lines.
    fn new(files: Files<'_>) -> Self {
        let log = Self(tempfile::tempdir().unwrap());
        let mut rows = Rows::default();
        for (name, lines) in files {
            let text: String = lines.iter().map(|number| line(*number) + "\n").collect();
            text.lines().for_each(|line| rows.push(leaf_hash(line.as_bytes()), &mut |_, _| {}));
            fs::write(log.path(name.trim_end_matches(".gz")), text).unwrap();
            if let Some(whole) = name.strip_suffix(".gz") {
                assert!(Command::new("gzip").arg(log.path(whole)).status().unwrap().success());
            }
        }
        let signer = Signer::from_seed(&[7; 32]);
        let checkpoint = Checkpoint { origin: "a/tree".to_owned(), size: rows.size(), root: rows.root() };
        fs::create_dir(log.path("audit.log.tree")).unwrap();
        fs::write(log.path("audit.log.tree/checkpoint"), checkpoint.sign(&signer)).unwrap();
        fs::write(log.path("key.pub"), signer.verifier().to_pem()).unwrap();
        log
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the script. `None`: there is no Python here; in CI it has to be.
    fn verify(&self) -> Option<Output> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/verify.py");
        let ran =
            Command::new("python3").arg(script).args([self.path("audit.log"), self.path("key.pub")]).output();
        match ran {
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && std::env::var_os("AUDIT_PROOF_PYTHON").is_none() =>
            {
                eprintln!("python3 is not tried: {error}");
                None
            }
            ran => Some(ran.unwrap()),
        }
    }

    fn is_whole(&self, entries: usize) {
        let Some(ran) = self.verify() else { return };
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains(&format!("{entries} entries of a/tree")), "{ran:?}");
    }

    fn is_not(&self, why: &str) {
        let Some(ran) = self.verify() else { return };
        assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains(why), "{ran:?}");
    }
}

/// A line as far as the format of the tree is concerned.
fn line(number: u32) -> String {
    format!(r#"{{"number":{number},"audited_at":"2026-11-27T10:00:00.{number:06}Z"}}"#)
}

#[test]
fn a_log_of_no_lines_is_whole_by_the_documented_format() {
    let log = Log::new(&[("audit.log", &[])]);
    log.is_whole(0);
    // Lines behind the checkpoint are not covered.
    fs::write(log.path("audit.log"), line(0) + "\n").unwrap();
    log.is_whole(0);
}

#[test]
fn segments_of_each_name_are_read_by_the_documented_format_and_other_files_are_not() {
    let log = Log::new(&[
        ("audit.log.20261125T211500.123456Z", &[0, 1, 2]),
        ("audit.log-20261127", &[3]),
        ("audit.log.2", &[]),
        ("audit.log-2026-11-27_10:00.gz", &[4, 5, 6, 7]),
        ("audit.log.1.gz", &[8]),
        ("audit-00000000000000000009.log", &[9, 10]),
        ("audit-00000000000000000003.log.gz", &[11, 12]),
        ("audit.log", &[13]),
    ]);
    for other in
        ["audit-old.log", "audit.log.bak", "audit-20261125.log", "audit.log.torn-20261125", "other.log.1"]
    {
        fs::write(log.path(other), "{}\n").unwrap();
    }
    log.is_whole(14);
    fs::write(log.path("audit.log-20261127"), line(33) + "\n").unwrap();
    log.is_not("do not lead to the root of the checkpoint");
    fs::remove_file(log.path("audit.log-20261127")).unwrap();
    log.is_not("13 of 14 entries");
}

#[test]
fn a_checkpoint_of_another_key_is_refused_by_the_documented_format() {
    let log = Log::new(&[("audit.log", &[0, 1, 2])]);
    fs::write(log.path("key.pub"), Signer::from_seed(&[8; 32]).verifier().to_pem()).unwrap();
    log.is_not("it is not signed by this key");
}
