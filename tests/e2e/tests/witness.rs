//! A witness cosigns the tree of the audit log, and what it has cosigned convicts a log that was rewritten with everything
//! that belongs to it. The witness is a server of this test, by c2sp.org/tlog-witness: it checks signature and consistency.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use audit_tree::{Checkpoint, Hash, Rows, Signer, Tile, Verifier, leaf_hash, node_hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use harness::{Outcome, Result, SOON, Service, World, eventually, free_port, http};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "witness.example/w1";
const TIME: u64 = 1_764_000_000;

/// What the witness has cosigned, by origin; and how it answers.
#[derive(Default)]
struct Inner {
    cosigned: HashMap<String, (u64, Hash)>,
    sizes: Vec<(u64, u64)>,
    /// It takes requests and answers none.
    hangs: bool,
    /// It cosigns with another key.
    forges: bool,
}

#[derive(Clone)]
struct Witness {
    inner: Arc<Mutex<Inner>>,
    log: Verifier,
    key: SigningKey,
    url: String,
}

impl Witness {
    async fn start(log: Verifier) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/prefix", listener.local_addr().unwrap());
        let it = Self { inner: Arc::default(), log, key: SigningKey::from_bytes(&[5; 32]), url };
        let server = it.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        Ok(it)
    }

    fn id(&self) -> [u8; 4] {
        let hash = Sha256::new().chain_update(NAME).chain_update(b"\n\x04");
        let hash: [u8; 32] = hash.chain_update(self.key.verifying_key().as_bytes()).finalize().into();
        hash[..4].try_into().unwrap()
    }

    fn vkey(&self) -> String {
        let id: String = self.id().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = [&[4], self.key.verifying_key().as_bytes().as_slice()].concat();
        format!("{NAME}+{id}+{}\n", STANDARD.encode(key))
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        loop {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).await.unwrap_or(0);
            request.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                if read == 0 {
                    return;
                }
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() < length.unwrap_or(0) {
                if read == 0 {
                    return;
                }
                continue;
            }
            assert!(head.starts_with("POST /prefix/add-checkpoint HTTP/1.1"), "{head}");
            if self.inner.lock().unwrap().hangs {
                return std::future::pending().await;
            }
            let (status, answer) = self.add(body);
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
            return;
        }
    }

    fn add(&self, body: &str) -> (u16, String) {
        let (proof, note) = body.split_once("\n\n").unwrap();
        let mut lines = proof.lines();
        let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
        let path: Vec<Hash> = lines.map(|line| STANDARD.decode(line).unwrap().try_into().unwrap()).collect();
        let Ok(checkpoint) = Checkpoint::open(note, &self.log) else { return (403, String::new()) };
        let mut inner = self.inner.lock().unwrap();
        let known = inner.cosigned.get(&checkpoint.origin).copied();
        let (size, root) = known.unwrap_or((0, [0; 32]));
        if old != size {
            return (409, format!("{size}\n"));
        }
        if !is_consistent((size, root), (checkpoint.size, checkpoint.root), &path) {
            return (422, String::new());
        }
        inner.cosigned.insert(checkpoint.origin.clone(), (checkpoint.size, checkpoint.root));
        inner.sizes.push((old, checkpoint.size));
        let (text, _) = note.split_once("\n\n").unwrap();
        let key = if inner.forges { SigningKey::from_bytes(&[6; 32]) } else { self.key.clone() };
        let signature = key.sign(format!("cosignature/v1\ntime {TIME}\n{text}\n").as_bytes());
        let bytes = [self.id().as_slice(), &TIME.to_be_bytes(), &signature.to_bytes()].concat();
        (200, format!("\u{2014} {NAME} {}\n", STANDARD.encode(bytes)))
    }

    fn sizes(&self) -> Vec<(u64, u64)> {
        self.inner.lock().unwrap().sizes.clone()
    }
}

/// The check of RFC 9162, section 2.1.4.2.
fn is_consistent((first, first_root): (u64, Hash), (second, root): (u64, Hash), path: &[Hash]) -> bool {
    if first == 0 || first == second {
        return path.is_empty() && (first == 0 || first_root == root);
    }
    let start = first.is_power_of_two().then_some(first_root);
    let mut path = start.into_iter().chain(path.iter().copied());
    let Some(start) = path.next() else { return false };
    let (mut old, mut new, mut number, mut last) = (start, start, first - 1, second - 1);
    while number & 1 == 1 {
        (number, last) = (number >> 1, last >> 1);
    }
    for hash in path {
        if number & 1 == 1 || number == last {
            (old, new) = (node_hash(&hash, &old), node_hash(&hash, &new));
            while number & 1 == 0 && number != 0 {
                (number, last) = (number >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, &hash);
        }
        (number, last) = (number >> 1, last >> 1);
    }
    last == 0 && old == first_root && new == root
}

struct Witnessed {
    world: World,
    audit: Service,
    witness: Witness,
    end: i64,
}

impl Witnessed {
    async fn start() -> Result<Self> {
        let world = World::start().await?;
        let key = world.audit_key().await?;
        let log = Signer::from_pem(&fs::read_to_string(&key).unwrap()).unwrap().verifier();
        let witness = Witness::start(log).await?;
        fs::write(world.path("witness.vkey"), witness.vkey()).unwrap();
        let audit = world.program("audit-service").env("AUDIT_KEY_FILE", key.display());
        let audit = audit.env("AUDIT_WITNESS_URL", &witness.url);
        let audit = audit.env("AUDIT_WITNESS_KEY_FILE", world.path("witness.vkey").display());
        let audit = audit.env("HEALTH_ADDR", format!("127.0.0.1:{}", free_port()?)).start()?;
        Ok(Self { world, audit, witness, end: 0 })
    }

    async fn events(&mut self, count: usize) -> Result<()> {
        self.end = self.world.produce_events(count).await?;
        self.world.committed("audit-service", self.end).await
    }

    /// Waits until the service has kept a cosignature on that many lines, and not what a test has forged.
    async fn cosigned(&self, lines: u64) -> Result<()> {
        let path = self.tree().join("witnessed");
        let has_it = async || {
            let note = fs::read_to_string(&path).unwrap_or_default();
            Ok((Checkpoint::read(&note).is_ok_and(|kept| (lines..u64::MAX).contains(&kept.size))
                && note.contains(NAME))
            .then_some(()))
        };
        eventually("a cosignature", SOON, has_it).await
    }

    fn tree(&self) -> PathBuf {
        self.world.path("audit.log.tree")
    }

    async fn verify(&self) -> Result<(bool, String)> {
        let path = |name: &str| self.world.path(name).display().to_string();
        let (log, key, witness) = (path("audit.log"), path("audit.key.pub"), path("witness.vkey"));
        let args = ["audit", "verify", &log, "--public-key", &key, "--witness-key", &witness];
        let ran = self.world.taskctl(&args).await?;
        Ok((ran.code == Some(0), format!("{}{}", ran.stdout, ran.stderr)))
    }

    async fn ready(&mut self) -> Result<String> {
        let url = self.audit.health_url().await?;
        Ok(http()?.get(format!("{url}/readyz")).send().await?.text().await?)
    }
}

#[tokio::test]
async fn a_witness_cosigns_the_tree_and_a_log_rewritten_with_its_tree_is_found_by_what_it_has() -> Outcome {
    let mut it = Witnessed::start().await?;
    it.events(300).await?;
    it.cosigned(300).await?;
    it.events(37).await?;
    it.cosigned(337).await?;
    // Between them, it may have been asked at any size.
    let sizes = it.witness.sizes();
    assert!(sizes.iter().any(|(old, _)| *old >= 300) && sizes.last().unwrap().1 == 337, "{sizes:?}");
    assert!(it.audit.terminate(SOON).await?.success());
    // What was noted of the witness was forged: it is asked.
    let older = fs::read_to_string(it.tree().join("witnessed"))?;
    fs::write(it.tree().join("witnessed"), older.replacen("\n337\n", &format!("\n{}\n", u64::MAX), 1))?;
    it.audit.restart()?;
    it.events(5).await?;
    it.cosigned(342).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let (is_whole, said) = it.verify().await?;
    let covered = |lines: u64| format!("witness {NAME} cosigned {lines} lines at 2025-11-24T16:00:00Z\n");
    let is_all = said.contains(&covered(342)) && !said.contains("against the witness");
    assert!(is_whole && is_all && !said.contains("what a witness"), "{said}");
    // An older one that is put back fits, and is seen to be older.
    let newest = fs::read_to_string(it.tree().join("witnessed"))?;
    fs::write(it.tree().join("witnessed"), &older)?;
    let (is_whole, said) = it.verify().await?;
    let is_seen =
        said.contains(&covered(337)) && said.contains("not checked: the last 5 lines against the witness");
    assert!(is_whole && is_seen, "{said}");
    fs::write(it.tree().join("witnessed"), newest)?;

    // Somebody who has the log, its tree, its key, and the file with the cosignature.
    let log = it.world.audit_log_path();
    let text = fs::read_to_string(&log)?;
    let forged = text.replacen("task-api", "task-apj", 1);
    fs::write(&log, &forged)?;
    let signer = Signer::from_pem(&fs::read_to_string(it.world.path("audit.key"))?).unwrap();
    let tree = it.tree();
    let write = |tile: Tile, hashes: &[Hash]| fs::write(tile.path(&tree), hashes.concat()).unwrap();
    let mut rows = Rows::default();
    forged
        .lines()
        .for_each(|line| rows.push(leaf_hash(line.as_bytes()), &mut |tile, hashes| write(tile, hashes)));
    rows.partials().for_each(|(tile, hashes)| write(tile, hashes));
    let origin = Checkpoint::read(&fs::read_to_string(tree.join("checkpoint"))?).unwrap().origin;
    let checkpoint = Checkpoint { origin, size: rows.size(), root: rows.root() }.sign(&signer);
    fs::write(tree.join("checkpoint"), &checkpoint)?;
    let (is_whole, said) = it.verify().await?;
    let convicts = "The witness has another root of the first 342 lines (witness witness.example/w1)";
    assert!(!is_whole && said.contains(convicts), "{said}");
    // Without it, and with one that was forged.
    let kept = fs::read_to_string(tree.join("witnessed"))?;
    let cosignature = kept.lines().last().unwrap();
    for (other, why) in
        [(None, "no witness has cosigned"), (Some(format!("{checkpoint}{cosignature}\n")), "no cosignature")]
    {
        match other {
            None => fs::remove_file(tree.join("witnessed"))?,
            Some(other) => fs::write(tree.join("witnessed"), other)?,
        }
        let (is_whole, said) = it.verify().await?;
        assert!(!is_whole && said.contains(why), "{why}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_witness_that_hangs_or_forges_delays_nothing_and_is_said() -> Outcome {
    let mut it = Witnessed::start().await?;
    it.witness.inner.lock().unwrap().forges = true;
    it.events(10).await?;
    let line = it.audit.wait_for_line("its answer has no cosignature by its key", SOON).await?;
    assert!(line.contains("witness.example/w1") && line.contains("the log goes on"), "{line}");
    assert!(!it.tree().join("witnessed").exists(), "what was not verified is not kept");
    it.witness.inner.lock().unwrap().hangs = true;
    it.events(10).await?;
    it.audit.wait_for_line("no answer within 10 s", SOON).await?;
    it.events(10).await?;
    let ready = it.ready().await?;
    assert!(ready.contains("\"warnings\":[\"witness witness.example/w1 at http://127.0.0.1:"), "{ready}");
    {
        let mut inner = it.witness.inner.lock().unwrap();
        (inner.hangs, inner.forges) = (false, false);
    }
    it.cosigned(30).await?;
    it.audit.wait_for_line("has cosigned the tree again", SOON).await?;
    assert!(!it.ready().await?.contains("warnings"));
    Ok(())
}
