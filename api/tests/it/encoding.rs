//! Compressed answers, and entity tags of documents.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::{Answer, App};

fn unpacked(answer: &Answer) -> String {
    let mut text = String::new();
    GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn lists_and_documents_are_compressed_for_those_who_take_it() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for number in 0..30 {
        app.create(&format!("task {number}")).await;
    }
    for path in ["/tasks", "/openapi.json", "/asyncapi.json", "/schemas/task-event.json", "/docs"] {
        let plain = app.call("GET", path).send().await;
        let packed = app.call("GET", path).header("accept-encoding", "br, gzip").send().await;
        assert_eq!((plain.status, packed.status), (200, 200), "{path}");
        assert!(!plain.headers.contains_key("content-encoding"), "{path}");
        assert_eq!(packed.header("content-encoding"), "gzip", "{path}");
        assert!(packed.body.len() * 2 < plain.body.len(), "{path}: {} bytes", packed.body.len());
        assert_eq!(unpacked(&packed), String::from_utf8(plain.body.clone()).unwrap(), "{path}");
        for answer in [&plain, &packed] {
            assert!(answer.header("vary").contains("accept-encoding"), "{path}");
        }
        let head = app.call("HEAD", path).header("accept-encoding", "gzip").send().await;
        assert_eq!((head.status, head.header("content-encoding")), (200, "gzip"), "{path}");
    }
    let task = app.create("a single task").await;
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    for path in [path.as_str(), "/tasks?limit=1", "/healthz"] {
        let small = app.call("GET", path).header("accept-encoding", "gzip").send().await;
        assert!(!small.headers.contains_key("content-encoding"), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn each_form_of_a_document_has_its_own_tag() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for path in ["/openapi.json", "/docs"] {
        let get = |encoding: &str, known: &str| {
            let call = app.call("GET", path).header("accept-encoding", encoding);
            let call = if known.is_empty() { call } else { call.header("if-none-match", known) };
            call.send()
        };
        let (plain, packed) = (get("identity", "").await, get("gzip", "").await);
        let (plain, packed) = (plain.header("etag"), packed.header("etag"));
        assert_ne!(plain, packed);
        for (encoding, known, status) in [
            ("identity", plain, 304),
            ("gzip", packed, 304),
            ("identity", packed, 200),
            ("gzip", plain, 200),
            ("gzip", "*", 304),
            ("gzip", "\"other\"", 200),
        ] {
            let answer = get(encoding, known).await;
            assert_eq!(answer.status, status, "{path} {encoding} {known}");
            assert_eq!(answer.header("etag"), if encoding == "gzip" { packed } else { plain });
            assert!(answer.header("vary").contains("accept-encoding"));
        }
        // A proxy may have made the tag weak.
        assert_eq!(get("identity", &format!("W/{plain}")).await.status, 304);
    }
    app.stop().await;
}

/// Half a list, half a kilobyte: a client that takes gzip gets the same pages.
#[tokio::test]
async fn a_compressed_page_is_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for number in 0..200 {
        app.create(&format!("{} {number}", "Größe ".repeat(50))).await;
    }
    let plain = app.call("GET", "/tasks?limit=200").send().await;
    let packed = app.call("GET", "/tasks?limit=200").header("accept-encoding", "gzip").send().await;
    let unpacked: Value = serde_json::from_str(&unpacked(&packed)).unwrap();
    assert_eq!(unpacked, plain.json());
    app.stop().await;
}
