//! Browsers and proxies: pages of this and of other origins, names that were rebound, encodings that a proxy
//! or a library adds, and what is asked before a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::support::{Answer, App, NO_KAFKA};

/// Content types that a page can send to another origin without asking.
const UNASKED: [Option<&str>; 4] = [
    None,
    Some("text/plain;charset=UTF-8"),
    Some("application/x-www-form-urlencoded"),
    Some("application/jsonp"),
];

/// Every call that changes something, with a body that it takes.
async fn changes(app: &App) -> [(&'static str, String); 3] {
    let path = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    [("POST", "/tasks".to_owned()), ("PATCH", path.clone()), ("POST", format!("{path}/complete"))]
}

const BODY: &str = r#"{"title": "t"}"#;

#[tokio::test]
async fn a_page_of_this_server_may_send_a_body_of_any_type() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for (method, path) in changes(&app).await {
        let port = app.address.rsplit_once(':').unwrap().1;
        // By Host; a proxy may terminate TLS, leave out or spell out the port, or rewrite Host.
        let own = [
            (app.address.clone(), format!("http://{}", app.address), "cross-site"),
            (format!("LOCALHOST:{port}"), format!("http://localhost:{port}"), ""),
            ("tasks.localhost".to_owned(), "https://tasks.localhost".to_owned(), ""),
            ("tasks.localhost:443".to_owned(), "https://tasks.localhost".to_owned(), ""),
            ("tasks.localhost".to_owned(), "http://tasks.localhost:80".to_owned(), ""),
            (app.address.clone(), "https://tasks.example.org".to_owned(), "same-origin"),
        ];
        for (host, origin, site) in own {
            for content_type in UNASKED.into_iter().chain([Some("application/json")]) {
                let call = app.call(method, &path).header("host", &host).header("origin", &origin);
                let call = call.header("sec-fetch-site", site);
                let call =
                    content_type.into_iter().fold(call, |call, value| call.header("content-type", value));
                let answer = call.body(BODY).send().await;
                assert!(answer.status < 300, "{method} {path} {host} {origin} {content_type:?}: {answer:?}");
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_must_say_json_or_send_no_body() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let port = app.address.rsplit_once(':').unwrap().1;
    let foreign = [
        "https://example.org".to_owned(),
        "null".to_owned(),
        String::new(),
        // Not the same port, host, or no origin at all.
        "http://127.0.0.1".to_owned(),
        format!("http://localhost:{port}"),
        format!("http://{}.example.org", app.address),
        format!("http://x@{}", app.address),
        format!("http://{}/", app.address),
        format!("ftp://{}", app.address),
        app.address.clone(),
    ];
    for (method, path) in changes(&app).await {
        for origin in &foreign {
            let call = || app.call(method, &path).header("origin", origin);
            for content_type in UNASKED {
                let call =
                    content_type.into_iter().fold(call(), |call, value| call.header("content-type", value));
                call.body(BODY).send().await.refused(415, &[]);
            }
            for content_type in
                ["application/json", "Application/JSON; charset=utf-8", "application/json;x=y"]
            {
                let answer = call().header("content-type", content_type).body(BODY).send().await;
                assert!(answer.status < 300, "{origin} {content_type}: {answer:?}");
            }
            let two = call().header("content-type", "application/json").header("content-type", "text/plain");
            two.body(BODY).send().await.refused(415, &[]);
            let site = call().header("sec-fetch-site", "cross-site");
            site.body(BODY).send().await.refused(415, &[]);
        }
        // Two origins, of which one is our own.
        let both = app.call(method, &path).header("origin", format!("http://{}", app.address));
        both.header("origin", "https://example.org").body(BODY).send().await.refused(415, &[]);
    }
    let complete = format!("/tasks/{}/complete", app.create("t").await["id"].as_str().unwrap());
    let bare = app.call("POST", &complete).header("origin", "https://example.org").send().await;
    assert_eq!(bare.status, 200, "{bare:?}");
    let read = app.call("GET", "/tasks").header("origin", "https://example.org").send().await;
    assert_eq!(read.status, 200);
    // Chunked is a body, too.
    let chunked = format!(
        "POST /tasks HTTP/1.1\r\nHost: {}\r\nOrigin: https://example.org\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\ne\r\n{BODY}\r\n0\r\n\r\n",
        app.address
    );
    assert!(app.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 415 "));
    app.stop().await;
}

#[tokio::test]
async fn a_body_is_read_whatever_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for (method, path) in changes(&app).await {
        for content_type in
            ["application/x-www-form-urlencoded", "text/plain", "application/json", "x", "", "é"]
        {
            let answer = app.call(method, &path).header("content-type", content_type).body(BODY).send().await;
            assert!(answer.status < 300, "{method} {path} {content_type}: {answer:?}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_compressed_body_is_refused_with_what_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let events = app.events().await.len();
    for (method, path) in changes(&app).await {
        for coding in
            ["gzip", "br", "zstd", "deflate", "x-gzip", "GZIP", "identity, gzip", "identity;q=1", "é"]
        {
            let call = app.call(method, &path).header("content-encoding", coding);
            let answer = call.body(b"\x1f\x8b\x08".to_vec()).send().await;
            answer.refused(415, &[]);
            assert_eq!(answer.header("accept-encoding"), "identity", "{coding}");
        }
        for coding in ["identity", "Identity", "", "identity, identity"] {
            let answer = app.call(method, &path).header("content-encoding", coding).body(BODY).send().await;
            assert!(answer.status < 300, "{coding}: {answer:?}");
        }
    }
    let read = app.call("GET", "/tasks").header("content-encoding", "gzip").send().await;
    assert_eq!(read.status, 200, "there is no body");
    assert!(app.events().await.len() > events);
    app.stop().await;
}

/// The statuses of a read and of a change for the host.
async fn for_host(app: &App, host: &str) -> [u16; 2] {
    let with_host = |method: &str, path: &str| app.call(method, path).header("host", host);
    let post = with_host("POST", "/tasks").json(&json!({"title": "t"})).await;
    [with_host("GET", "/healthz").send().await.status, post.status]
}

#[tokio::test]
async fn bound_to_loopback_only_loopback_and_allowed_hosts_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = Ipv4Addr::LOCALHOST.into();
    let app =
        App::bound(dir.path(), NO_KAFKA, loopback, "tasks.example.org., 192.0.2.7,[2001:db8::1],").await;
    for own in [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]",
        "[::1]:8000",
        "tasks.example.org",
        "Tasks.Example.ORG.:443",
        "192.0.2.7:8000",
        "[2001:DB8:0::1]",
    ] {
        assert_eq!(for_host(&app, own).await, [200, 201], "{own}");
    }
    for foreign in [
        "rebound.example.org",
        "example.org",
        "a.tasks.example.org",
        "localhost.example.org",
        "127.0.0.1.nip.io",
        "192.0.2.8",
        "0.0.0.0",
        "0",
        "[::]",
        "127.1",
        "2130706433",
    ] {
        assert_eq!(for_host(&app, foreign).await, [421, 421], "{foreign}");
    }
    for none in [
        "",
        ":80",
        "a b",
        "a/b",
        "user@localhost",
        "localhost:x",
        "localhost:65536",
        "::1",
        "http://localhost",
        "localhost, localhost",
        "é",
    ] {
        assert_eq!(for_host(&app, none).await, [400, 400], "{none}");
    }
    let refused = app.call("GET", "/tasks").header("host", "rebound.example.org").send().await;
    refused.refused(421, &[]);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("rebound.example.org") && detail.contains("ALLOWED_HOSTS"), "{detail}");
    app.stop().await;
}

#[tokio::test]
async fn bound_to_another_address_any_host_is_answered_unless_some_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    for bound in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED), [192, 0, 2, 1].into()]
    {
        let app = App::bound(dir.path(), NO_KAFKA, bound, "").await;
        for host in ["localhost", "anything.example.org", "10.0.0.1:8000"] {
            assert_eq!(for_host(&app, host).await, [200, 201], "{bound} {host}");
        }
        app.stop().await;
        let app = App::bound(dir.path(), NO_KAFKA, bound, "tasks.example.org").await;
        // Probes and scrapers call a pod by its address, which nobody can rebind.
        for host in ["localhost", "tasks.example.org:443", "10.0.0.1:8000", "[fd00::7]:8000"] {
            assert_eq!(for_host(&app, host).await, [200, 201], "{bound} {host}");
        }
        assert_eq!(for_host(&app, "anything.example.org").await, [421, 421], "{bound}");
        app.stop().await;
    }
}

/// Sends head lines as they are.
async fn raw(app: &App, request_line: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    app.raw(format!("{request_line}\r\n{headers}Connection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn host_is_given_once_and_a_target_that_names_a_host_is_held_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let open =
        App::bound(tempfile::tempdir().unwrap().path(), NO_KAFKA, Ipv4Addr::UNSPECIFIED.into(), "").await;
    for (request_line, headers, status) in [
        ("GET /tasks HTTP/1.1", vec![], 400),
        ("GET /tasks HTTP/1.0", vec![], 400),
        ("GET /tasks HTTP/1.0", vec!["Host: localhost"], 200),
        ("GET /tasks HTTP/1.1", vec!["Host: localhost", "Host: localhost"], 400),
        ("GET /tasks HTTP/1.1", vec!["Host: localhost", "Host: example.org"], 400),
        ("GET http://localhost:8000/tasks HTTP/1.1", vec!["Host: localhost"], 200),
        ("GET http://example.org/tasks HTTP/1.1", vec!["Host: localhost"], 421),
        ("GET http://localhost/tasks HTTP/1.1", vec!["Host: example.org"], 421),
        ("GET http://user@localhost/tasks HTTP/1.1", vec!["Host: localhost"], 400),
        ("CONNECT example.org:443 HTTP/1.1", vec!["Host: example.org:443"], 421),
        ("CONNECT localhost:443 HTTP/1.1", vec!["Host: localhost:443"], 404),
    ] {
        let answer = raw(&app, request_line, &headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} "))
                || answer.starts_with(&format!("HTTP/1.0 {status} ")),
            "{request_line} {headers:?}: {answer}"
        );
    }
    assert!(raw(&open, "GET /tasks HTTP/1.0", &[]).await.contains(" 200 OK"));
    assert!(raw(&open, "GET /tasks HTTP/1.1", &[]).await.contains(" 400 Bad Request"));
    app.stop().await;
    open.stop().await;
}

#[tokio::test]
async fn options_says_what_a_path_has() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let allow = |answer: &Answer| (answer.status, answer.header("allow").to_owned());
    for (path, methods) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/tasks", "GET, HEAD, OPTIONS, POST"),
        ("/tasks/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/tasks/x/complete", "OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let preflight = app.call("OPTIONS", path).header("origin", "https://example.org");
        let preflight = preflight.header("access-control-request-method", "POST").send().await;
        assert_eq!(allow(&preflight), (204, methods.to_owned()), "{path}");
        assert!(!preflight.headers.keys().any(|name| name.as_str().starts_with("access-control")));
        let put = app.call("PUT", path).send().await;
        put.refused(405, &[]);
        assert_eq!(put.header("allow"), methods);
    }
    app.call("OPTIONS", "/nowhere").send().await.refused(404, &[]);
    let all = raw(&app, "OPTIONS * HTTP/1.1", &["Host: localhost"]).await;
    assert!(
        all.starts_with("HTTP/1.1 204 ") && all.contains("allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST"),
        "{all}"
    );
    app.stop().await;
}

#[tokio::test]
async fn the_root_is_a_page_and_an_index_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let root = async |accept: &str| app.call("GET", "/").header("accept", accept).send().await;
    let page = root("text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert_eq!((page.status, page.header("vary")), (200, "accept"));
    assert!(String::from_utf8(page.body).unwrap().contains("href=\"/docs\""));
    let index: Value = root("application/json").await.json();
    for (name, path) in index.as_object().unwrap() {
        if name != "name" {
            assert_eq!(app.call("GET", path.as_str().unwrap()).send().await.status, 200, "{name}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_http_lets_a_client_ask_for_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let whole = app.call("GET", "/openapi.json").send().await;
    let range = app.call("GET", "/openapi.json").header("range", "bytes=0-9").send().await;
    assert_eq!((range.status, range.body), (200, whole.body), "a range is not served");
    let te = app.call("POST", "/tasks").header("te", "trailers, gzip").header("accept-encoding", "gzip, br");
    assert_eq!(te.json(&json!({"title": "t"})).await.status, 201);
    let old = raw(&app, "GET /healthz HTTP/1.0", &["Host: localhost"]).await;
    assert!(
        !old.to_lowercase().contains("transfer-encoding") && old.contains("{\"status\":\"ok\","),
        "{old}"
    );
    let expect = format!(
        "POST /tasks HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{BODY}",
        app.address,
        BODY.len()
    );
    let answer = app.raw(expect.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "), "{answer}");
    app.stop().await;
}
