//! What the API counts, and the page to try it.

use serde_json::json;

use crate::support::{App, eventually};

#[tokio::test]
async fn metrics_tell_of_requests_and_of_the_outbox() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    app.call("GET", "/metrics").send().await;
    let id = app.create("one").await["id"].as_str().unwrap().to_owned();
    app.create("two").await;
    app.call("GET", &format!("/tasks/{id}")).send().await;
    app.call("POST", "/tasks").json(&json!({})).await.refused(422, &["title"]);
    for nowhere in ["/nowhere/1", "/nowhere/2", "/tasks/1/2"] {
        app.call("GET", nowhere).send().await.refused(404, &[]);
        app.call("PURGE", nowhere).send().await.refused(404, &[]);
    }
    eventually("both events are counted", async || app.store.outbox().borrow().waiting == 2).await;
    let text = String::from_utf8(app.call("GET", "/metrics").send().await.body).unwrap();
    let requests = |method: &str, route: &str, status: u16, count: u32| {
        format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",http_route=\"{route}\",http_response_status_code=\"{status}\"}} {count}"
        )
    };
    for line in [
        requests("POST", "/tasks", 201, 2),
        requests("POST", "/tasks", 422, 1),
        requests("GET", "/tasks/{id}", 200, 1),
        requests("GET", "/metrics", 200, 1),
        // What clients make up does not make series.
        requests("GET", "", 404, 3),
        requests("_OTHER", "", 404, 3),
        "task_api_outbox_events 2".to_owned(),
        "task_api_kafka_reachable 0".to_owned(),
        "task_api_store_writable 1".to_owned(),
        "task_api_shed_total{what=\"request\"} 0".to_owned(),
        "task_api_shed_total{what=\"connection\"} 0".to_owned(),
        "messaging_client_sent_messages_total{messaging_system=\"kafka\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|each| each == line), "{line} is not in {text}");
    }
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse::<f64>().unwrap()
    };
    assert!(value("task_api_outbox_oldest_event_age_seconds") > 0.0);
    assert!(value("task_api_store_commits_total") >= 1.0);
    assert!(value("http_server_open_connections") >= 1.0);
    let bare = |name: &str| -> String {
        let name = name.split(['{', ' ']).next().unwrap();
        ["_bucket", "_sum", "_count"]
            .into_iter()
            .fold(name, |name, end| name.trim_end_matches(end))
            .to_owned()
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert_eq!(text.matches(&format!("# TYPE {} ", bare(line))).count(), 1, "{line}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_may_not_load_it() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let page = app.call("GET", "/docs").send().await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.ends_with("connect-src 'self'"), "{policy}");
    let text = String::from_utf8(page.body).unwrap();
    assert!(text.contains("/openapi.json"));
    for outside in ["http:", "https:", "src=", "@import", "url(", "innerHTML"] {
        assert!(!text.contains(outside), "{outside}");
    }
    app.stop().await;
}
