//! The live page: who may ask for what, and what watchers cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use task_api::live::{Live, LiveError, MAX_WATCHERS, Sources};
use task_events::config::TopicArgs;
use task_events::kafka::Kafka;
use tokio::time::timeout;

use crate::support::{App, NO_KAFKA, SOON, TOPIC, eventually};

/// A call that the description leaves out: the page's own interface.
async fn call(app: &App, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", app.address);
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

/// The stream of a watcher that reads, up to a message of that name: its data.
async fn message(app: &App, name: &str) -> Value {
    let mut stream = reqwest::get(format!("http://{}/live/stream", app.address)).await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    let mut text = String::new();
    let reading = async {
        loop {
            text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().expect("it goes on")));
            let start = format!("event: {name}\ndata: ");
            let found = text.split("\n\n").find_map(|message| message.strip_prefix(&start));
            if let Some(data) = found.filter(|_| text.ends_with("\n\n")) {
                return serde_json::from_str(data).unwrap();
            }
        }
    };
    timeout(SOON, reading).await.expect("no such message")
}

#[tokio::test]
async fn one_reader_serves_all_watchers_and_ends_when_nobody_looks() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let (_relay, relay) = tokio::sync::watch::channel(Default::default());
    let readers = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&readers);
    let topics = |name: &str| format!("{TOPIC}-{name}");
    let live = Live::new(Sources {
        kafka: Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Kafka::new(vec![NO_KAFKA.to_owned()], "test")
        }),
        topics: TopicArgs {
            task_events_topic: topics("a"),
            offsets_topic: topics("b"),
            dlq_topic: topics("c"),
        },
        events: task_events::schemas::EventReader::json(),
        store: app.store.clone(),
        relay,
    });
    assert!(!live.is_reading(), "nobody looks");
    let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| live.watch().unwrap()).collect();
    assert!(matches!(live.watch(), Err(LiveError::TooManyWatchers)));
    assert_eq!((readers.load(Ordering::Relaxed), live.watchers()), (1, MAX_WATCHERS));
    for watcher in &mut watchers {
        let snapshot = timeout(SOON, watcher.next()).await.unwrap().unwrap();
        assert!(snapshot.starts_with(b"event: snapshot\ndata: {"));
        let tick = timeout(SOON, watcher.next()).await.unwrap().unwrap();
        assert!(tick.starts_with(b"event: tick\ndata: {"));
    }
    drop(watchers);
    assert_eq!(live.watchers(), 0);
    eventually("the reader ends", async || !live.is_reading()).await;
    let again = live.watch().unwrap();
    assert_eq!(readers.load(Ordering::Relaxed), 2);
    live.close();
    assert!(matches!(live.watch(), Err(LiveError::Stopping)));
    drop((again, live));
    app.stop().await;
}

#[tokio::test]
async fn without_kafka_the_page_says_so_and_a_stream_holds_up_no_stop() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    app.create("stored all the same").await;
    let snapshot = message(&app, "snapshot").await;
    assert_eq!(snapshot["events"], json!([]));
    let unreachable = async || {
        let tick = message(&app, "tick").await;
        let what = tick["health"][0]["what"].as_str().unwrap_or_default().to_owned();
        tick["kafka"]["reachable"] == false
            && what.contains("has not answered for")
            && what.contains("1 event waits in the outbox")
    };
    eventually("it says that Kafka is unreachable", unreachable).await;
    let stream = reqwest::get(format!("http://{}/live/stream", app.address)).await.unwrap();
    app.stop().await;
    // In order: what a stop waited for in vain would be cut off.
    timeout(SOON, stream.bytes()).await.expect("the stream has ended").unwrap();
}

#[tokio::test]
async fn a_page_of_another_origin_redrives_and_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let body = r#"{"ids":["0/1"],"execute":true}"#;
    let json = ("content-type", "application/json");
    let post = async |headers: &[(&str, &str)], body: &str| {
        call(&app, "POST", "/live/redrive", headers, body).await.0
    };
    assert_eq!(post(&[], body).await, 415);
    assert_eq!(post(&[("content-type", "text/plain")], body).await, 415);
    assert_eq!(post(&[json, ("origin", "http://evil.example")], body).await, 403);
    assert_eq!(post(&[json, ("sec-fetch-site", "cross-site")], body).await, 403);
    for (wrong, status) in
        [("{", 400), ("[]", 422), ("{}", 422), (r#"{"ids":[]}"#, 422), (r#"{"ids":["x"]}"#, 422)]
    {
        assert_eq!(post(&[json], wrong).await, status, "{wrong}");
    }
    let many = serde_json::to_string(&json!({"ids": vec!["0/1"; 101]})).unwrap();
    assert_eq!(post(&[json], &many).await, 422);
    assert_eq!(post(&[json], &format!("{{\"ids\":[\"{}\"]}}", "9".repeat(70_000))).await, 413);
    let id = "018f0000-0000-7000-8000-000000000000";
    let (trace, outbox) = (format!("/live/trace/{id}"), format!("/live/outbox/{id}"));
    for path in ["/live/stream", &trace, &outbox, "/live/dead-letters/0/1"] {
        let (status, problem) = call(&app, "GET", path, &[("sec-fetch-site", "cross-site")], "").await;
        assert_eq!((status, &problem["status"]), (403, &json!(403)), "{path}");
        assert_eq!(call(&app, "HEAD", path, &[], "").await.0, 405, "{path} has no end");
        assert_eq!(call(&app, "GET", path, &[("host", "evil.example")], "").await.0, 421, "{path}");
    }
    for (path, status) in [
        ("/live/trace/x", 422),
        ("/live/outbox/x", 422),
        ("/live/dead-letters/0/x", 404),
        ("/live/dead-letters/0/-1", 404),
    ] {
        assert_eq!(call(&app, "GET", path, &[], "").await.0, status, "{path}");
    }
    assert!(!app.live.is_reading(), "nothing of this was worth reading Kafka");
    app.stop().await;
}

#[tokio::test]
async fn the_page_loads_nothing_and_runs_only_its_own_script() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let page = app.call("GET", "/").header("accept", "text/html").send().await;
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = String::from_utf8(page.body.clone()).unwrap();
    for loads in ["src=\"", "href=\"http", "@import", "url(", "{{", " style=\"", " onclick=\""] {
        assert!(!html.contains(loads), "{loads}");
    }
    assert_eq!((html.matches("<script>").count(), html.matches("<style>").count()), (1, 1));
    let etag = page.header("etag").to_owned();
    let url = format!("http://{}/", app.address);
    let again = reqwest::Client::new().get(url).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    app.stop().await;
}
