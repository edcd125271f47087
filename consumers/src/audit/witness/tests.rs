//! What the service makes of a witness's answers, and of what it has kept of them.

use audit_tree::{Rows, Signer, leaf_hash};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const NAME: &str = "witness.example/w1";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn key_id() -> [u8; 4] {
    let hash = Sha256::new().chain_update(NAME).chain_update(b"\n\x04");
    let hash: [u8; 32] = hash.chain_update(key().verifying_key().as_bytes()).finalize().into();
    hash[..4].try_into().unwrap()
}

fn witness() -> Witness {
    let id: String = key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    let public = [&[4], key().verifying_key().as_bytes().as_slice()].concat();
    Witness::from_vkey(&format!("{NAME}+{id}+{}", STANDARD.encode(public))).unwrap()
}

/// The witness's cosignature on a note.
fn cosignature(note: &str) -> String {
    let (text, _) = note.split_once("\n\n").unwrap();
    let signature = key().sign(format!("cosignature/v1\ntime 7\n{text}\n").as_bytes());
    let bytes = [key_id().as_slice(), &7_u64.to_be_bytes(), &signature.to_bytes()].concat();
    format!("\u{2014} {NAME} {}\n", STANDARD.encode(bytes))
}

/// A checkpoint of so many lines of a log of that name, whose tiles are in the folder.
fn tree(folder: &Path, log: &str, size: u64) -> String {
    let mut rows = Rows::default();
    for line in 0..size {
        rows.push(leaf_hash(format!("{log} {line}").as_bytes()), &mut |_, _| panic!("a full tile"));
    }
    for (tile, hashes) in rows.partials() {
        let path = tile.path(folder);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, hashes.concat()).unwrap();
    }
    let checkpoint = Checkpoint { origin: "o".to_owned(), size, root: rows.root() };
    checkpoint.sign(&Signer::from_seed(&[7; 32]))
}

/// A tree of ten lines.
fn ten() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let note = tree(folder.path(), "log", 10);
    fs::write(folder.path().join("checkpoint"), note).unwrap();
    folder
}

/// A witness that gives these answers, one a request, and then none.
async fn answering(answers: &[(u16, &str)]) -> (WitnessSettings, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hush", listener.local_addr().unwrap()).parse().unwrap();
    let answers: Vec<_> = answers
        .iter()
        .map(|(status, body)| {
            format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        })
        .collect();
    let server = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The note's signature is its end.
            while !String::from_utf8_lossy(&request).contains("\u{2014} o ") || !request.ends_with(b"\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            // Until it was read.
            let _ = stream.read_to_end(&mut request).await;
        }
    });
    (WitnessSettings { url, witness: witness(), tls: None }, server)
}

#[tokio::test]
async fn only_a_root_or_a_size_that_the_witness_has_is_held_against_the_log() {
    let long = "x".repeat(17 * 1024);
    for (answers, why) in [
        (&[(409, "10\n"), (409, "10\n")][..], Some("another root of as many lines")),
        (&[(409, "11\n")], Some("it was restored from an older copy")),
        (&[(409, "4\n"), (409, "12\n")], Some("it was restored from an older copy")),
        (&[(422, "")], Some("not the beginning of this tree (422)")),
        (&[(409, "4\n"), (422, "")], Some("not the beginning of this tree (422)")),
        // A proxy's, and a request that was done meanwhile.
        (&[(409, "")], Some("without the size")),
        (&[(409, "<html>")], Some("without the size")),
        (&[(409, "4\n"), (409, "7\n")], Some("another size again")),
        (&[(409, "10\n"), (409, "")], Some("without the size")),
        (&[(403, "")], Some("(403)")),
        (&[(404, "")], Some("(404)")),
        (&[(500, "")], Some("it answered 500")),
        (&[(200, "")], Some("no cosignature")),
        (&[(200, long.as_str())], Some("more than 16384 bytes")),
        (&[(200, "signed")], None),
        (&[(409, "10\n"), (200, "signed")], None),
    ] {
        let folder = ten();
        let note = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
        let signed = cosignature(&note);
        let answers: Vec<_> = answers
            .iter()
            .map(|(status, body)| (*status, if *body == "signed" { signed.as_str() } else { *body }))
            .collect();
        let (settings, server) = answering(&answers).await;
        let asked = ask(folder.path(), &settings).await;
        server.await.unwrap();
        match why {
            Some(why) => {
                let said = asked.unwrap_err();
                assert!(said.contains(why), "{answers:?}: {said}");
                let accuses = said.contains("rewritten") || said.contains("restored");
                let is_proof = answers.iter().any(|answer| answer.0 == 422)
                    || why.contains("as many")
                    || why.contains("older copy");
                assert_eq!(accuses, is_proof, "{answers:?}: {said}");
            }
            None => {
                assert_eq!(asked, Ok(true));
                assert_eq!(fs::read_to_string(folder.path().join(WITNESSED)).unwrap(), note + &signed);
            }
        }
    }
}

#[tokio::test]
async fn what_was_kept_is_believed_only_with_the_cosignature_and_held_against_the_tree() {
    let folder = ten();
    let note = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let keep =
        |note: &str, line: &str| fs::write(folder.path().join(WITNESSED), format!("{note}{line}")).unwrap();
    let asked = async |answers: &[(u16, &str)]| {
        let (settings, server) = answering(answers).await;
        let asked = ask(folder.path(), &settings).await;
        server.await.unwrap();
        asked
    };
    keep(&note, &cosignature(&note));
    assert_eq!(asked(&[]).await, Ok(true));
    // The tree is shorter, or another.
    let longer = tree(other.path(), "log", 12);
    keep(&longer, &cosignature(&longer));
    let said = asked(&[]).await.unwrap_err();
    assert!(said.contains("has cosigned 12 lines of this tree, and the tree has 10"), "{said}");
    let another = tree(other.path(), "rewritten", 10);
    keep(&another, &cosignature(&another));
    assert_eq!(asked(&[]).await.unwrap_err(), ANOTHER_ROOT);
    // Nobody's, another note's, another tree's, and none: the witness is asked.
    let largest = note.replacen("\n10\n", &format!("\n{}\n", u64::MAX), 1);
    let of_another_tree = note.replacen("o\n", "p\n", 1);
    for (kept, line) in [
        (&largest, String::new()),
        (&largest, cosignature(&note)),
        (&note, String::new()),
        (&of_another_tree, cosignature(&of_another_tree)),
        (&String::new(), String::new()),
    ] {
        keep(kept, &line);
        assert!(asked(&[(404, "")]).await.unwrap_err().contains("(404)"), "{kept}");
    }
    // Where there is nothing to submit, nothing is known.
    fs::remove_file(folder.path().join(WITNESSED)).unwrap();
    fs::write(folder.path().join("checkpoint"), tree(folder.path(), "log", 0)).unwrap();
    assert_eq!(asked(&[]).await, Ok(false));
    fs::remove_file(folder.path().join("checkpoint")).unwrap();
    assert_eq!(asked(&[]).await, Ok(false));
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("witness.vkey");
    let id: String = key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    let public = [&[4], key().verifying_key().as_bytes().as_slice()].concat();
    fs::write(&file, format!("{NAME}+{id}+{}\n", STANDARD.encode(public))).unwrap();
    let load = |url: &str, ca: Option<&str>| {
        WitnessSettings::load(url.parse().unwrap(), &file, ca.map(PathBuf::from))
            .map_err(|error| error.to_string())
    };
    assert!(load("http://w.example/hush", None).is_ok());
    for (url, ca, why) in [
        ("http://w.example/hush", Some("/ca.crt"), "AUDIT_WITNESS_CA_FILE needs an https address"),
        ("http://w.example/?hush", None, "a query"),
    ] {
        let refused = load(url, ca).unwrap_err();
        assert!(refused.contains(why) && !refused.contains("hush"), "{refused}");
    }
}
