//! The audit log proves itself: what is done to a log, its tree or both is found and named with its place, by `taskctl
//! audit verify` and by a script that knows the documented format alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use audit_tree::{Checkpoint, Hash, Rows, Signer, Tile, leaf_hash};
use harness::{Outcome, Result, SOON, Service, World, eventually, free_port, http};
use rustix::process::Signal;

#[path = "audit_proof/hands.rs"]
mod hands;

use hands::HANDS;

const GROUP: &str = "audit-service";
/// Lines in the segment and in the log. Both end in the middle of a tile.
const SEGMENT: usize = 300;
const LINES: usize = 350;

struct Proved {
    world: World,
    audit: Service,
    end: i64,
}

impl Proved {
    /// A service with a key, and an empty log.
    async fn empty() -> Result<Self> {
        let world = World::start().await?;
        let key = world.audit_key().await?;
        let audit = world.program("audit-service").env("AUDIT_KEY_FILE", key.display()).start()?;
        Ok(Self { world, audit, end: 0 })
    }

    async fn start() -> Result<Self> {
        let mut proved = Self::empty().await?;
        proved.events(SEGMENT).await?;
        proved.audit.signal(Signal::HUP)?;
        proved.audit.wait_for_line("rotated audit log", SOON).await?;
        proved.events(LINES).await?;
        proved.signed(650).await?;
        Ok(proved)
    }

    async fn events(&mut self, count: usize) -> Result<()> {
        self.end = self.world.produce_events(count).await?;
        self.world.committed(GROUP, self.end).await?;
        Ok(())
    }

    /// Waits until the checkpoint is of that many lines.
    async fn signed(&self, lines: u64) -> Result<()> {
        let path = self.world.path("audit.log.tree/checkpoint");
        let size = || {
            let note = fs::read_to_string(&path).unwrap_or_default();
            Checkpoint::read(&note).ok().map(|checkpoint| checkpoint.size)
        };
        let is_so = async || Ok((size() == Some(lines)).then_some(()));
        eventually(&format!("a checkpoint of {lines} lines"), SOON, is_so).await
    }

    /// Waits until Kafka has the tree of that many lines.
    async fn anchored(&self, lines: u64) -> Result<()> {
        let folder = self.world.audit_log_path().parent().unwrap().to_owned();
        let newest = format!("the newest of {lines} lines");
        let is_so = async || Ok(self.verify(&folder, &["--kafka"]).await?.1.contains(&newest).then_some(()));
        eventually("the anchor in Kafka", SOON, is_so).await?;
        Ok(())
    }

    fn public_key(&self) -> String {
        self.world.path("audit.key.pub").display().to_string()
    }

    /// What `taskctl audit verify` says of the log in that folder, and whether it found something.
    async fn verify(&self, folder: &Path, more: &[&str]) -> Result<(bool, String)> {
        let (log, key) = (folder.join("audit.log").display().to_string(), self.public_key());
        let args = [&["audit", "verify", log.as_str(), "--public-key", &key], more].concat();
        let ran = self.world.taskctl(&args).await?;
        Ok((ran.code == Some(0), format!("{}{}", ran.stdout, ran.stderr)))
    }

    /// A copy of log, segments and tree.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.world.path(name);
        fs::create_dir(&to).unwrap();
        let from = self.world.audit_log_path().parent().unwrap().to_owned();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("audit.log") || name.starts_with("audit-0") {
                assert!(
                    Command::new("cp").arg("-a").args([&path, &to.join(&name)]).status().unwrap().success()
                );
            }
        }
        to
    }
}

fn segment() -> String {
    format!("audit-{:020}.log", 0)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn put(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// Changes the lines of a file.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Vec<String>)) {
    let path = folder.join(file);
    let mut all = lines(&path);
    change(&mut all);
    put(&path, &all);
}

#[tokio::test]
async fn an_empty_log_of_a_new_installation_is_whole() -> Outcome {
    let it = Proved::empty().await?;
    let folder = it.world.audit_log_path().parent().unwrap().to_owned();
    let is_so = async || {
        let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
        Ok((is_whole && said.contains("1 anchors in Kafka, the newest of 0 lines")).then_some(()))
    };
    eventually("a whole log", SOON, is_so).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_done_to_a_log_or_its_tree_is_found_and_named_with_its_place() -> Outcome {
    let mut it = Proved::start().await?;
    let folder = it.world.audit_log_path().parent().unwrap().to_owned();
    let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
    assert!(is_whole, "while it is written: {said}");
    assert!(it.audit.terminate(SOON).await?.success());
    let old = it.copy("old");
    it.audit.restart()?;
    it.events(1).await?;
    it.anchored(651).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
    assert!(is_whole && said.contains("651 entries, 0 differences\n1 anchors in Kafka"), "{said}");
    assert!(!said.contains("not checked"), "{said}");
    let (is_whole, said) = it.verify(&folder, &[]).await?;
    assert!(is_whole && said.contains("not checked: what Kafka has of the tree"), "{said}");

    for (number, (what, hand, places)) in HANDS.iter().enumerate() {
        let copy = it.world.path(&format!("copy{number}"));
        assert!(Command::new("cp").arg("-a").args([&old, &copy]).status().unwrap().success());
        let (is_whole, said) = it.verify(&copy, &[]).await?;
        assert!(is_whole, "{what}, before: {said}");
        hand(&copy);
        let (is_whole, said) = it.verify(&copy, &[]).await?;
        assert_eq!(
            is_whole,
            places.iter().any(|place| place.contains("behind its checkpoint")),
            "{what}: {said}"
        );
        for place in *places {
            assert!(said.contains(place), "{what}: {place}: {said}");
        }
    }
    // Whole in itself, and older than what Kafka has.
    let (is_whole, said) = it.verify(&old, &["--kafka"]).await?;
    assert!(!is_whole && said.contains("Kafka has an anchor of 651 lines, and the log has 650"), "{said}");
    Ok(())
}

/// Makes the tree that the lines now lead to, under the same origin, and signs it: as somebody does who has the key.
fn rewrite_tree(folder: &Path, key: &Path) {
    let tree = folder.join("audit.log.tree");
    let signer = Signer::from_pem(&fs::read_to_string(key).unwrap()).unwrap();
    let write = |tile: Tile, hashes: &[Hash]| fs::write(tile.path(&tree), hashes.concat()).unwrap();
    let mut rows = Rows::default();
    for file in [segment(), "audit.log".to_owned()] {
        for line in lines(&folder.join(file)) {
            rows.push(leaf_hash(line.as_bytes()), &mut |tile, hashes| write(tile, hashes));
        }
    }
    rows.partials().for_each(|(tile, hashes)| write(tile, hashes));
    let origin = lines(&tree.join("checkpoint"))[0].clone();
    let checkpoint = Checkpoint { origin, size: rows.size(), root: rows.root() };
    fs::write(tree.join("checkpoint"), checkpoint.sign(&signer)).unwrap();
}

#[tokio::test]
async fn a_log_that_is_rewritten_and_signed_with_the_real_key_is_found_against_kafka() -> Outcome {
    let mut it = Proved::start().await?;
    it.anchored(650).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let log = it.world.audit_log_path();
    let folder = log.parent().unwrap().to_owned();
    edit(&folder, "audit.log", |lines| lines[7] = lines[7].replace("task-api", "task-apj"));
    rewrite_tree(&folder, &it.world.path("audit.key"));
    let origin = lines(&folder.join("audit.log.tree/checkpoint"))[0].clone();
    let (is_whole, said) = it.verify(&folder, &[]).await?;
    assert!(is_whole && said.contains("not checked: what Kafka has"), "whole in itself: {said}");
    let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
    assert!(!is_whole && said.contains("Kafka has another root of the first 650 lines"), "{said}");

    // The service does not go on with it, and the evidence stays where it is.
    it.audit.restart()?;
    it.events(1).await?;
    it.audit.wait_for_line("Kafka has an anchor that it does not fit", SOON).await?;
    it.events(1).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    // The new tree is of the changed lines, and signed: what Kafka has of the old one tells.
    let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
    assert!(
        !is_whole && said.contains("another root of the first 650 lines by another tree, task-events/audit/"),
        "{said}"
    );
    assert!(said.contains("an older tree, set aside as "), "{said}");
    let (is_whole, said) = it.verify(&folder, &["--kafka", "--accept-origin", &origin]).await?;
    assert!(is_whole, "looked into, and accepted: {said}");

    // Nor does it help to remove the tree before the service makes another.
    fs::remove_dir_all(folder.join("audit.log.tree")).unwrap();
    for more in [&[][..], &["--kafka"]] {
        let (is_whole, said) = it.verify(&folder, more).await?;
        assert!(!is_whole && said.contains("there is no tree"), "{more:?}: {said}");
    }
    it.audit.restart()?;
    it.audit.wait_for_line("Kafka has anchors of other trees", SOON).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let (is_whole, said) = it.verify(&folder, &["--kafka"]).await?;
    assert!(!is_whole && said.contains("by another tree, "), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_proof_needs_the_public_key_alone_and_the_documented_format_suffices_to_verify() -> Outcome {
    let mut it = Proved::start().await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let (log, key) = (it.world.audit_log_path(), it.public_key());
    let line = lines(&log)[17].clone();
    let id =
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["event_id"].as_str().unwrap().to_owned();
    let proof = it.world.taskctl(&["audit", "prove", &log.display().to_string(), &id]).await?;
    assert_eq!(proof.code, Some(0), "{proof:?}");
    let path = it.world.path("proof");
    let check = async |proof: &str| {
        fs::write(&path, proof).unwrap();
        it.world.taskctl(&["audit", "check", &path.display().to_string(), "--public-key", &key]).await
    };
    let checked = check(&proof.stdout).await?;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(
        checked.stdout.starts_with(&line) && checked.stdout.contains("entry 317 of the 650"),
        "{checked:?}"
    );
    let forged = check(&proof.stdout.replace("index 317", "index 318")).await?;
    assert!(forged.code == Some(1) && forged.stderr.contains("TE0513"), "{forged:?}");

    // Others that know the format alone: a script, and in CI a verifier with Go's own transparency log.
    let folder = log.parent().unwrap();
    let vkey = fs::read_to_string(folder.join("audit.log.tree/vkey")).unwrap();
    let python = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/verify.py");
        Command::new("python3").arg(script).args([&log, Path::new(&key)]).output()
    };
    let go = || {
        let verifier = std::env::var("AUDIT_GO_VERIFIER").ok()?;
        Some(Command::new(verifier).args([&log, Path::new(&vkey)]).output().unwrap())
    };
    // In CI it has to be there.
    let python = || match python() {
        Err(error) if std::env::var_os("AUDIT_PROOF_PYTHON").is_none() => {
            eprintln!("python3 is not tried: {error}");
            None
        }
        ran => Some(ran.unwrap()),
    };
    let whole = python();
    assert!(whole.iter().chain(&go()).all(|ran| ran.status.success()), "{whole:?}");
    edit(folder, "audit.log", |lines| lines[7].push(' '));
    let names_it = |ran: &std::process::Output, what: &str| {
        !ran.status.success()
            && [&ran.stdout, &ran.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(what))
    };
    let (changed, by_go) = (python(), go());
    assert!(
        changed.iter().all(|ran| names_it(ran, "do not lead to the root of the checkpoint")),
        "a changed line: {changed:?}"
    );
    assert!(by_go.iter().all(|ran| names_it(ran, "its line is not entry")), "a changed line: {by_go:?}");
    // A key that cannot be used.
    let refused = it.world.program("audit-service").env("AUDIT_KEY_FILE", &key).run(SOON).await?;
    assert!(refused.code == Some(1) && refused.stderr.contains("[TE0410]"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_tree_that_cannot_be_written_is_said_by_readyz_and_metrics_and_the_log_goes_on() -> Outcome {
    let mut it = Proved::empty().await?;
    it.audit.wait_for_line("claimed audit-service/task-events/0", SOON).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let (tree, log) = (it.world.path("audit.log.tree"), it.world.audit_log_path());
    fs::remove_dir_all(&tree)?;
    fs::write(&tree, "in its way")?;
    let audit = it.world.program("audit-service").env("AUDIT_KEY_FILE", it.world.path("audit.key").display());
    it.audit = audit.env("HEALTH_ADDR", format!("127.0.0.1:{}", free_port()?)).start()?;
    it.events(3).await?;
    assert_eq!(lines(&log).len(), 3);
    let url = it.audit.health_url().await?;
    let get = async |path: &str| -> Result<String> {
        let answer = http()?.get(format!("{url}/{path}")).send().await?;
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        Ok(answer.text().await?)
    };
    let warning = "\"warnings\":[\"the tree beside the audit log does not grow: ";
    let is_said = async || Ok(get("readyz").await?.contains(warning).then_some(()));
    eventually("/readyz to say it", SOON, is_said).await?;
    let metrics = get("metrics").await?;
    for (what, is_so) in [("failed", 1), ("set_aside", 0), ("not_anchored", 0)] {
        let series = format!("task_events_audit_tree_trouble{{what=\"{what}\"}} {is_so}\n");
        assert!(metrics.contains(&series), "{series}: {metrics}");
    }
    Ok(())
}
