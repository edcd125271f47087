//! The listener with a certificate.

use std::path::Path;
use std::time::Duration;

use harness::{Authority, Validity};
use task_events::tls::{Identity, Tls, TlsFiles, TlsServer, TlsVariables};
use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::App;

const SOON: Duration = Duration::from_secs(30);
static VARIABLES: TlsVariables = TlsVariables { ca: "CA_FILE", identity: None };

/// The API over HTTPS, and a client that trusts its CA.
async fn start() -> (TempDir, App, Tls) {
    let folder = tempdir().unwrap();
    let authority = Authority::new("ca").unwrap();
    let ca = folder.path().join("ca.crt");
    harness::replace(&ca, authority.certificate()).unwrap();
    let server = tls_server(&authority, folder.path());
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let app = App::over_tls(&state, server).await;
    let client = Tls::load(TlsFiles { ca: Some(ca), identity: None, variables: &VARIABLES }).unwrap();
    (folder, app, client)
}

fn tls_server(authority: &Authority, folder: &Path) -> TlsServer {
    let certificate = authority.issue("api", &["localhost"], Validity::Valid).unwrap();
    let (certificate, key) = certificate.write(folder, "api").unwrap();
    TlsServer::load(Identity { certificate, key }, ("CERTIFICATE", "KEY")).unwrap()
}

/// What comes back for the bytes, over one connection.
async fn exchange(app: &App, client: &Tls, request: &[u8]) -> String {
    let exchanged = async {
        let stream = TcpStream::connect(&app.address).await.unwrap();
        let mut stream = client.connect(stream, "localhost").await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    timeout(SOON, exchanged).await.expect("no answer")
}

fn post(title: &str, connection: &str) -> String {
    let body = format!(r#"{{"title":"{title}"}}"#);
    let length = body.len();
    format!(
        "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_made_and_read_over_https() {
    let (_folder, app, client) = start().await;
    let requests = post("one", "keep-alive") + &post("two", "close");
    let answers = exchange(&app, &client, requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 201 Created").count(), 2, "{answers}");
    // Longer than what TLS takes at once.
    for _ in 0..90 {
        exchange(&app, &client, post(&"x".repeat(500), "close").as_bytes()).await;
    }
    let list = b"GET /tasks?limit=100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let list = exchange(&app, &client, list).await;
    assert!(list.starts_with("HTTP/1.1 200 OK"), "{list}");
    let body = list.split_once("\r\n\r\n").unwrap().1;
    let tasks: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(tasks.to_string().contains("\"two\""), "{tasks}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_on_the_port_of_https_is_answered_in_words_and_hands_out_nothing() {
    let (_folder, app, client) = start().await;
    let answer = app.raw(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["detail"], "This port speaks HTTPS, not HTTP");
    // What is no handshake, and one that does not go on, take no connection from others.
    let mut silent = TcpStream::connect(&app.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    app.raw(&[22; 500]).await;
    let answer = exchange(&app, &client, post("still", "close").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
    drop(silent);
    app.stop().await;
}
