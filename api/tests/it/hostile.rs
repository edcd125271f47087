//! Clients that mean harm, or do it: very many, very slow, deaf, or with far too much. All against the real
//! process, whose memory is measured.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use reqwest::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::Service;
use crate::support::{SOON, eventually};

/// Longer than the median wait of a client where a service is well, on a machine that is busy with other tests.
const PROMPT: Duration = Duration::from_secs(5);

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap()
}

/// Connections of which each has sent the bytes and no more.
async fn having_sent(service: &Service, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(service).await;
        stream.write_all(bytes).await.unwrap();
        streams.push(stream);
    }
    streams
}

/// All that comes back until the server closes.
async fn to_the_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it is not closed");
    String::from_utf8(answer).unwrap()
}

async fn sent(service: &Service, request: &[u8]) -> String {
    let mut stream = connect(service).await;
    // The server may answer before it has read all.
    let _ = stream.write_all(request).await;
    to_the_end(stream).await
}

/// An ordinary client creates and reads tasks, one after another, most of them promptly. Returns the median wait.
async fn ordinary_client(service: &Service) -> Duration {
    let mut waits = Vec::new();
    let client = Client::new();
    let tasks = format!("{}/tasks", service.url);
    for number in 0..20 {
        let begun = Instant::now();
        let title = format!("task {number}");
        let create = client.post(&tasks).body(json!({"title": title}).to_string());
        let created = timeout(SOON, create.send()).await.expect("no answer in time").unwrap();
        assert_eq!(created.status(), 201);
        let id = created.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
        let read = client.get(format!("{tasks}/{id}")).send();
        let read = timeout(SOON, read).await.expect("no answer in time").unwrap();
        assert_eq!(read.status(), 200);
        assert_eq!(read.json::<Value>().await.unwrap()["title"], title);
        waits.push(begun.elapsed());
    }
    waits.sort();
    let median = waits[waits.len() / 2];
    assert!(median < PROMPT, "{waits:?}");
    median
}

/// Whether this process may open that many files; it asks for as many as it can get.
fn may_open(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if most < files {
        println!(
            "skipped: needs {files} open files, and the hard limit of this process is {most} (ulimit -Hn)"
        );
    }
    most >= files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_and_slow_connections_harm_nobody() {
    if !may_open(11_000) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    ordinary_client(&service).await;
    let before = service.memory();

    let slow_body = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"title\": ";
    let idle = having_sent(&service, 4_000, b"").await;
    let slow_heads =
        having_sent(&service, 3_000, b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
    let slow_bodies = having_sent(&service, 3_000, slow_body).await;
    let median = ordinary_client(&service).await;
    let at_most = service.memory();
    println!(
        "{before} MiB before, {at_most} MiB with 10,000 connections; an ordinary client waited {median:?}"
    );
    assert!(at_most < 200, "{at_most} MiB");

    // Each is ended within its time-out of 10 s, and those that sent something get the reason.
    for (streams, status) in [(idle, 408), (slow_heads, 408), (slow_bodies, 408)] {
        for stream in streams {
            let answer = to_the_end(stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
        }
    }
    ordinary_client(&service).await;
}

/// Sends a head and then a body that never ends, byte by byte if it is `part`ed.
async fn trickle(service: &Service, framing: &str, part: &'static [u8]) {
    let begun = Instant::now();
    let mut stream = connect(service).await;
    let head = format!("POST /tasks HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writing.write_all(part).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut answer = String::new();
    while !answer.contains("did not arrive within 10 s") {
        let mut buf = [0; 1024];
        let read = timeout(SOON, reading.read(&mut buf)).await.expect("no answer").unwrap();
        assert!(read > 0, "closed after {answer}");
        answer.push_str(std::str::from_utf8(&buf[..read]).unwrap());
    }
    trickle.abort();
    let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("application/problem+json"), "{answer}");
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_body_that_does_not_end_is_408_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    tokio::join!(
        trickle(&service, "Content-Length: 1000", b" "),
        trickle(&service, "Transfer-Encoding: chunked", b"1\r\n \r\n"),
        trickle(&service, "Content-Length: 9\r\nExpect: 100-continue", b""),
    );
}

#[tokio::test]
async fn with_few_files_it_takes_what_it_can_and_refuses_the_rest_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // 300 files of which 200 are not for clients.
    let service = Service::with_files(dir.path(), 100, 300).await;
    let healthz = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // More of them come until all places are taken: on a busy machine the first ones' 10 s may be over before the
    // last are there.
    let taken = RefCell::new(Vec::new());
    let all_taken = async || {
        eventually("all places are taken", || async {
            let more = having_sent(&service, 110, b"GET /tasks HTTP/1.1\r\n").await;
            taken.borrow_mut().extend(more);
            sent(&service, healthz).await.starts_with("HTTP/1.1 503 ")
        })
        .await;
    };
    all_taken().await;
    for _ in 0..5 {
        let post = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
        let mut refused = sent(&service, post).await;
        if !refused.starts_with("HTTP/1.1 503 ") {
            // Their 10 s are over. Who waited for a place would be answered otherwise each time.
            all_taken().await;
            refused = sent(&service, post).await;
        }
        let (head, body) = refused.split_once("\r\n\r\n").expect(&refused);
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{refused}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{refused}");
        assert_eq!(serde_json::from_str::<Value>(body).unwrap()["status"], 503);
    }
    assert_eq!(service.logged("Error accepting").len(), 0, "files are left for the store and for Kafka");
    drop(taken);
    eventually("it takes clients again", || async {
        service.post("t").send().await.is_ok_and(|response| response.status() == 201)
    })
    .await;
    ordinary_client(&service).await;
    assert_eq!(service.get("/readyz").await.0, 200);
}

/// Answers that nobody takes: each client asks for a page of some 400 KiB again and again and reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_cost_bounded_memory_and_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let wide = "😀".repeat(500);
    for _ in 0..200 {
        assert_eq!(service.post(&wide).send().await.unwrap().status(), 201);
    }
    let page = b"GET /tasks?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    let deaf = having_sent(&service, 200, &page).await;
    let median = ordinary_client(&service).await;
    let mut at_most = 0;
    for _ in 0..20 {
        at_most = at_most.max(service.memory());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{at_most} MiB with 200 deaf clients; an ordinary client waited {median:?}");
    assert!(at_most < 300, "{at_most} MiB");
    ordinary_client(&service).await;
    drop(deaf);
    eventually("pages are sent again", || async { service.get("/tasks?limit=200").await.0 == 200 }).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let head = |headers: &str| {
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    };
    let many = |count: usize| head(&"X-Many: x\r\n".repeat(count));
    for (request, status) in [
        (many(50), 200),
        (many(200), 431),
        (head(&format!("X-Long: {}\r\n", "x".repeat(60_000))), 200),
        (head(&format!("X-Long: {}\r\n", "x".repeat(200_000))), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000)), 431),
        (
            format!(
                "GET /tasks/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                "x".repeat(60_000)
            ),
            404,
        ),
    ] {
        let answer = sent(&service, request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {}",
            &answer[..answer.len().min(300)]
        );
    }
    ordinary_client(&service).await;
}

/// A million requests' worth of pipelining, of which nothing is read until all is sent or the server stops
/// to take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pipelined_requests_is_answered_in_order_and_costs_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let before = service.memory();
    const REQUESTS: usize = 20_000;
    let (mut reading, mut writing) = connect(&service).await.into_split();
    let flood = tokio::spawn(async move {
        for number in 0..REQUESTS {
            let last = if number + 1 == REQUESTS { "Connection: close\r\n" } else { "" };
            let request = format!("GET /nowhere/{number} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n");
            writing.write_all(request.as_bytes()).await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stalled = service.memory();
    assert!(stalled < before + 50, "{before} MiB, then {stalled} MiB");
    let mut answers = Vec::new();
    while timeout(SOON, reading.read_buf(&mut answers)).await.expect("not answered").unwrap() > 0 {}
    let answers = String::from_utf8(answers).unwrap();
    let told: Vec<usize> = answers
        .split("\"instance\":\"/nowhere/")
        .skip(1)
        .map(|answer| answer.split('"').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(told.len(), REQUESTS);
    assert!(told.is_sorted());
    flood.await.unwrap();
}

#[tokio::test]
async fn json_as_deep_as_it_likes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    let deep = 1_000_000;
    for body in ["[".repeat(deep), "{\"a\":".repeat(deep), format!("{{\"title\":{}", "[".repeat(deep))] {
        let response = service.client.post(format!("{}/tasks", service.url)).body(body).send().await.unwrap();
        assert_eq!(response.status(), 413);
    }
    // As deep as 64 KiB allow, in a field that is known, in one that is not, and instead of the object.
    let open_close =
        |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for nested in [open_close("[", "]", 32_000), open_close("{\"a\":", "}", 9_000), "[".repeat(65_000)] {
        for body in
            [format!("{{\"title\":{nested}}}"), format!("{{\"title\":\"t\",\"x\":{nested}}}"), nested.clone()]
        {
            let response =
                service.client.post(format!("{}/tasks", service.url)).body(body).send().await.unwrap();
            assert_eq!(response.status(), 400);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
        }
    }
    ordinary_client(&service).await;
}

#[tokio::test]
async fn what_is_no_http_makes_no_error_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path()).await;
    for garbage in [
        "GET / HTTP/1.1\r\nHost: localhost\r\nX Y: z\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\r\n\r\n",
    ] {
        let answer = sent(&service, garbage.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"status\":400"), "{answer}");
    }
    ordinary_client(&service).await;
    assert_eq!(service.logged(" ERROR ").len(), 0, "{:?}", service.logged(" ERROR "));
}
