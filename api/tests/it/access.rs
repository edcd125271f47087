//! Who calls, how often, and from which page: what stands before the handlers.

mod jwt;

use std::fs;
use std::num::NonZero;
use std::path::Path;

use serde_json::json;
use task_api::access::Access;
use task_api::http::{AllowedOrigins, Edge, TrustedProxies};
use task_api::rate_limit::RateLimiter;
use task_events::access::{TokenLine, hash_of};

use crate::support::{Answer, App, Call, SOON, eventually};

fn line(name: &str, scopes: &str, token: &str) -> String {
    let (name, hash) = (name.to_owned(), hash_of(token));
    format!("{}\n", TokenLine { name, scopes: scopes.parse().unwrap(), hash })
}

/// alice may do anything, bob may look, carol may write.
fn tokens(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("tokens");
    let lines =
        line("alice", "read,write", "te_a") + &line("bob", "read", "te_b") + &line("carol", "write", "te_c");
    fs::write(&path, lines).unwrap();
    path
}

fn with_tokens(dir: &Path) -> Edge {
    Edge { access: Some(Access::default().with_tokens(&tokens(dir)).unwrap()), ..Edge::default() }
}

trait As {
    fn with(self, token: &str) -> Self;
}

impl As for Call {
    fn with(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }
}

#[track_caller]
fn denied(answer: &Answer, status: u16, challenge: &str) {
    answer.refused(status, &[]);
    let given = answer.header("www-authenticate");
    assert!(given.starts_with("Bearer realm=\"task-api\"") && given.contains(challenge), "{given}");
}

#[tokio::test]
async fn who_calls_is_known_by_its_token_and_named_in_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::behind(dir.path(), with_tokens(dir.path())).await;
    let body = json!({"title": "t"});
    let created = app.call("POST", "/tasks").with("te_a").json(&body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let task = created.header("location").to_owned();
    assert_eq!(app.call("PATCH", &task).with("te_c").json(&json!({"title": "u"})).await.status, 200);
    assert_eq!(app.call("GET", &task).with("te_b").send().await.status, 200);
    let actors: Vec<_> = app.events().await.iter().map(|entry| entry.event.metadata.actor.clone()).collect();
    assert_eq!(actors, [Some("alice".to_owned()), Some("carol".to_owned())]);
    let stored: Vec<serde_json::Value> =
        app.events().await.iter().map(|entry| serde_json::from_slice(&entry.payload).unwrap()).collect();
    assert_eq!(stored[0]["metadata"]["actor"], "alice");

    for call in [app.call("GET", &task), app.call("POST", "/tasks"), app.call("GET", "/nowhere")] {
        let answer = call.body("{}").send().await;
        denied(&answer, 401, "");
        assert!(!answer.header("www-authenticate").contains("error"), "no token was given");
    }
    for token in ["te_x", "te_a.", "a", &task_events::escape::hex(&hash_of("te_a"))] {
        denied(&app.call("GET", &task).with(token).send().await, 401, "error=\"invalid_token\"");
    }
    denied(
        &app.call("POST", "/tasks").with("te_b").json(&body).await,
        403,
        "insufficient_scope\", scope=\"write\"",
    );
    denied(&app.call("DELETE", &task).with("te_b").send().await, 403, "scope=\"write\"");
    denied(&app.call("GET", "/tasks").with("te_c").send().await, 403, "scope=\"read\"");
    for header in ["Bearer", "Bearer te_a te_b"] {
        denied(&app.call("GET", &task).header("authorization", header).send().await, 400, "invalid_request");
    }
    denied(&app.call("GET", &task).with("te_a").with("te_b").send().await, 400, "invalid_request");
    denied(&app.call("GET", &task).header("authorization", "Basic dGVfYTo=").send().await, 401, "");
    let raw = app.raw(b"GET /live/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 401"), "{raw}");
    let raw = app
        .raw(b"POST /live/redrive HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\nAuthorization: Bearer te_b\r\n\r\n{}")
        .await;
    assert!(raw.starts_with("HTTP/1.1 403"), "{raw}");

    // What is the same for everybody, and probes.
    for open in [
        "/",
        "/docs",
        "/openapi.json",
        "/asyncapi.json",
        "/schemas/task-event.json",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        assert_eq!(app.call("GET", open).send().await.status, 200, "{open}");
    }
    assert_eq!(app.call("OPTIONS", "/tasks").send().await.status, 204);
    app.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_is_its_callers_own() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::behind(dir.path(), with_tokens(dir.path())).await;
    let create = |token: &str| {
        let call = app.call("POST", "/tasks").with(token).header("idempotency-key", "k");
        call.body(json!({"title": "t"}).to_string()).send()
    };
    let (alice, carol) = (create("te_a").await, create("te_c").await);
    assert_ne!(alice.json()["id"], carol.json()["id"]);
    assert!(!carol.headers.contains_key("idempotent-replayed"));
    assert_eq!(create("te_a").await.json(), alice.json());
    assert_eq!(create("te_c").await.json(), carol.json());
    // Nor does it tell that there is one.
    let other = app.call("POST", "/tasks").with("te_c").header("idempotency-key", "alice\tk");
    assert_eq!(other.json(&json!({"title": "other"})).await.status, 201);
    app.stop().await;

    // After a restart, too.
    let app = App::behind(dir.path(), with_tokens(dir.path())).await;
    let again = app.call("POST", "/tasks").with("te_a").header("idempotency-key", "k");
    let again = again.body(json!({"title": "t"}).to_string()).send().await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (alice.json(), "true"));
    assert_eq!(app.events().await.len(), 3);
    app.stop().await;
}

#[tokio::test]
async fn tokens_are_read_again_when_their_file_changes_and_a_wrong_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::behind(dir.path(), with_tokens(dir.path())).await;
    let status = async |token: &str| app.call("GET", "/tasks").with(token).send().await.status;
    let failure = async || app.call("GET", "/readyz").send().await.json()["access_failure"].clone();
    assert_eq!((status("te_b").await, status("te_d").await), (200, 401));
    assert!(failure().await.is_null());
    let path = dir.path().join("tokens");
    let replace = |text: String| {
        fs::write(dir.path().join("new"), text).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
    };
    replace(line("dora", "read", "te_d"));
    eventually("the new token", || async { status("te_d").await == 200 }).await;
    assert_eq!(status("te_b").await, 401, "it was revoked");
    replace("dora read te_d\n".to_owned());
    eventually("the failure", || async { failure().await.is_string() }).await;
    let shown = failure().await;
    let shown = shown.as_str().unwrap();
    assert!(
        shown.starts_with("API_TOKENS_FILE ") && !shown.contains("dora"),
        "for everybody to read: {shown}"
    );
    assert_eq!(status("te_d").await, 200);
    // Who watches the live page with a token that is revoked does not go on.
    let client = reqwest::Client::new();
    let stream = client.get(format!("http://{}/live/stream", app.address)).bearer_auth("te_d").send();
    let mut stream = stream.await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(stream.chunk().await.unwrap().is_some());
    replace(String::new());
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(SOON, ended).await.expect("the stream has ended");
    eventually("no token", || async { status("te_d").await == 401 && failure().await.is_null() }).await;
    app.stop().await;
}

fn limited(per_second: u32, burst: u32) -> Option<RateLimiter> {
    let number = |n| NonZero::new(n).unwrap();
    Some(RateLimiter::new(number(per_second), number(burst)))
}

#[tokio::test]
async fn who_sends_more_than_the_rate_is_answered_429_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    // One in a second is slower than any test machine sends.
    let app = App::behind(dir.path(), Edge { rate_limiter: limited(1, 5), ..with_tokens(dir.path()) }).await;
    let send = async |token: &str| app.call("GET", "/tasks").with(token).send().await;
    let mut refused = None;
    for _ in 0..200 {
        let answer = send("te_a").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a refusal");
    refused.refused(429, &[]);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(send("te_b").await.status, 200, "another caller");
    // Wrong tokens are counted by address.
    let mut guesses = Vec::new();
    for n in 0..200 {
        guesses.push(send(&format!("te_{n}")).await.status);
        if guesses.ends_with(&[429]) {
            break;
        }
    }
    assert!(guesses.starts_with(&[401]) && guesses.ends_with(&[429]), "{guesses:?}");
    assert_eq!(send("te_b").await.status, 200);
    for _ in 0..20 {
        assert_eq!(app.call("GET", "/healthz").send().await.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn an_address_is_the_peers_unless_a_trusted_proxy_names_another() {
    for (trusted, is_believed) in [("", false), ("127.0.0.1", true)] {
        let dir = tempfile::tempdir().unwrap();
        let proxies = TrustedProxies::parse(trusted).unwrap();
        let app =
            App::behind(dir.path(), Edge { rate_limiter: limited(1, 1), proxies, ..Edge::default() }).await;
        let mut statuses = Vec::new();
        for n in 0..50 {
            let call = app.call("GET", "/tasks").header("x-forwarded-for", format!("1.1.1.1, 192.0.2.{n}"));
            statuses.push(call.send().await.status);
        }
        assert_eq!(statuses.contains(&429), !is_believed, "{trusted}: {statuses:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn only_pages_of_the_origins_that_are_named_may_call() {
    let dir = tempfile::tempdir().unwrap();
    let origins = AllowedOrigins::parse("https://app.example.org").unwrap();
    let app = App::behind(dir.path(), Edge { origins, ..with_tokens(dir.path()) }).await;
    let preflight = |path: &str, origin: &str| {
        app.call("OPTIONS", path)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let raw = app
        .raw(b"OPTIONS /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://app.example.org\r\nAccess-Control-Request-Method: POST\r\n\r\n")
        .await
        .to_lowercase();
    assert!(raw.starts_with("http/1.1 204"), "{raw}");
    for header in [
        "access-control-allow-origin: https://app.example.org\r\n",
        "access-control-allow-methods: delete, get, head, patch, post\r\n",
        "vary: origin\r\n",
        "x-correlation-id: ",
    ] {
        assert!(raw.contains(header), "{header}: {raw}");
    }
    assert!(raw.contains("authorization, content-type") && !raw.contains("allow-credentials"), "{raw}");
    for origin in
        ["https://evil.example.org", "http://app.example.org", "https://app.example.org.evil.org", "null"]
    {
        let answer = preflight("/tasks", origin).send().await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{origin}: {answer:?}");
    }

    let call = |origin: &str, content_type: &str| {
        let call = app.call("POST", "/tasks").with("te_a").header("origin", origin);
        call.header("content-type", content_type).body(json!({"title": "t"}).to_string()).send()
    };
    let answer = call("https://app.example.org", "application/json").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (201, "https://app.example.org")
    );
    assert!(answer.header("access-control-expose-headers").contains("ETag"));
    let answer = call("https://app.example.org", "text/plain").await;
    assert_eq!(answer.status, 415, "the CSRF rule holds all the same");
    let answer = call("https://evil.example.org", "application/json").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert!(answer.header("vary").contains("origin"));
    // An error can be read, too; and the live page's interface is for nobody else.
    let answer = app.call("GET", "/tasks").header("origin", "https://app.example.org").send().await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, "https://app.example.org")
    );
    let raw = app
        .raw(b"GET /live/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://app.example.org\r\n\r\n")
        .await
        .to_lowercase();
    assert!(!raw.contains("access-control-allow-origin"), "{raw}");
    app.stop().await;
}
