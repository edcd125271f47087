//! Callers by the tokens that an issuer has signed.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use task_api::access::{Access, Issuer};
use task_api::http::Edge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{As as _, denied, limited, tokens};
use crate::support::{App, eventually};

fn issuer() -> Issuer {
    Issuer { issuer: "https://issuer.example.org".to_owned(), audience: "task-api".to_owned() }
}

/// What another implementation made: `jwks.json` or `tokens.json`.
fn golden(name: &str) -> serde_json::Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jwt");
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

#[tokio::test]
async fn a_caller_with_a_signed_token_is_named_by_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let signed = golden("tokens.json");
    let keys = dir.path().join("jwks.json");
    fs::write(&keys, golden("jwks.json").to_string()).unwrap();
    let access =
        Access::default().with_tokens(&tokens(dir.path())).unwrap().with_keys(&keys, issuer()).unwrap();
    let app = App::behind(dir.path(), Edge { access: Some(access), ..Edge::default() }).await;
    let create =
        |token: &str| app.call("POST", "/tasks").with(token).body(json!({"title": "t"}).to_string()).send();
    let token = |name: &str| signed[name].as_str().unwrap();
    assert_eq!(create(token("good-es256")).await.status, 201);
    assert_eq!(create("te_a").await.status, 201, "both kinds are taken");
    denied(&create(token("read-scp-list")).await, 403, "scope=\"write\"");
    denied(&create(token("bad-expired")).await, 401, "invalid_token");
    denied(&create(token("bad-unsigned")).await, 401, "invalid_token");
    let actors: Vec<_> = app.events().await.iter().map(|entry| entry.event.metadata.actor.clone()).collect();
    assert_eq!(actors, [Some("jwt:zoë|7".to_owned()), Some("alice".to_owned())]);
    // A key that the issuer has withdrawn.
    fs::write(&keys, r#"{"keys":[]}"#).unwrap();
    let failure = async || app.call("GET", "/readyz").send().await.json()["access_failure"].is_string();
    eventually("the failure", || async { failure().await }).await;
    assert_eq!(create(token("good-es256")).await.status, 201, "a set without keys changes nothing");
    let set = golden("jwks.json");
    fs::write(&keys, json!({"keys": [set["keys"][0]]}).to_string()).unwrap();
    eventually("the withdrawal", || async { create(token("good-es256")).await.status == 401 }).await;
    assert_eq!(create(token("good-rs256")).await.status, 201);
    app.stop().await;
}

/// Answers each request with what the set is now; 500 where there is none.
async fn serve_keys(set: Arc<Mutex<Option<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let set = set.lock().unwrap().clone();
            let status = if set.is_some() { "200 OK" } else { "500 Internal Server Error" };
            let set = set.unwrap_or_default();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{set}", set.len());
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    url
}

#[tokio::test]
async fn keys_at_a_url_are_waited_for_and_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let (signed, keys) = (golden("tokens.json"), golden("jwks.json"));
    let set = Arc::new(Mutex::new(None));
    let url = serve_keys(Arc::clone(&set)).await.parse().unwrap();
    let access = Access::default().with_tokens(&tokens(dir.path())).unwrap();
    let access = access.with_key_url(url, None, issuer()).unwrap();
    let app = App::behind(dir.path(), Edge { access: Some(access), ..Edge::default() }).await;
    let look = async |token: &str| app.call("GET", "/tasks").with(token).send().await;
    let token = |name: &str| signed[name].as_str().unwrap();
    let failure = async || app.call("GET", "/readyz").send().await.json()["access_failure"].clone();
    // While there was never a set, nothing is known of any JWT; callers of the file are.
    let answer = look(token("good-rs256")).await;
    answer.refused(503, &[]);
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(look("te_b").await.status, 200);
    eventually("the failure", || async { failure().await.is_string() }).await;
    *set.lock().unwrap() = Some(json!({"keys": [keys["keys"][0]]}).to_string());
    eventually("the first set", || async { look(token("good-rs256")).await.status == 200 }).await;
    eventually("no failure", || async { failure().await.is_null() }).await;
    // A key that is new. Where no fetch began after its token came, it is not said to be wrong.
    let answer = look(token("good-es256")).await;
    if answer.status != 401 {
        answer.refused(503, &[]);
        assert_eq!(answer.header("retry-after"), "10");
    }
    *set.lock().unwrap() = Some(keys.to_string());
    eventually("the new key", || async { look(token("good-es256")).await.status == 200 }).await;
    eventually("a fetch for a key that is not there", || async {
        let answer = look(token("bad-kid")).await;
        assert!([401, 503].contains(&answer.status), "{answer:?}");
        answer.status == 401
    })
    .await;
    // An outage changes nothing.
    *set.lock().unwrap() = None;
    look(token("bad-kid")).await.refused(503, &[]);
    assert_eq!(look(token("good-es256")).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_for_keys_counts_once_against_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let signed = golden("tokens.json");
    let url = serve_keys(Arc::default()).await.parse().unwrap();
    let access = Access::default().with_key_url(url, None, issuer()).unwrap();
    let edge = Edge { access: Some(access), rate_limiter: limited(1, 1), ..Edge::default() };
    let app = App::behind(dir.path(), edge).await;
    let look = app.call("GET", "/tasks").with(signed["good-rs256"].as_str().unwrap());
    look.send().await.refused(503, &[]);
    app.stop().await;
}
