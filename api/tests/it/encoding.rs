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

#[tokio::test]
async fn every_answer_says_that_its_type_is_not_to_be_guessed_and_pages_say_what_they_may_do() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("<script>alert(1)</script>").await;
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    for (method, path, status) in [
        ("GET", path.as_str(), 200),
        ("DELETE", &path, 204),
        ("GET", &path, 404),
        ("GET", "/tasks", 200),
        ("GET", "/tasks?limit=0", 422),
        ("POST", "/tasks", 400),
        ("PUT", "/tasks", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/asyncapi.json", 200),
        ("GET", "/schemas/task-event.json", 200),
        ("GET", "/", 200),
        ("GET", "/docs", 200),
        ("HEAD", "/docs", 200),
    ] {
        let answer = app.call(method, path).header("accept", "text/html").send().await;
        assert_eq!(answer.status, status, "{method} {path}");
        let values = answer.headers.get_all("x-content-type-options").iter();
        assert_eq!(values.collect::<Vec<_>>(), ["nosniff"], "{method} {path}");
        let is_page = answer
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap().starts_with("text/html"));
        for name in ["content-security-policy", "referrer-policy", "cross-origin-opener-policy"] {
            assert_eq!(answer.headers.contains_key(name), is_page, "{method} {path}: {name}");
        }
    }
    // What the HTTP layer answers without the application.
    let raw = app.raw(b"NOT HTTP\r\n\r\n").await;
    assert!(raw.contains("\r\nx-content-type-options: nosniff\r\n"), "{raw}");
    app.stop().await;
}
