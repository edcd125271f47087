//! `Idempotency-Key`: sent twice, done once.

use serde_json::json;

use crate::support::App;

#[tokio::test]
async fn the_same_request_gets_the_same_answer_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut app = App::start(dir.path()).await;
    let id = app.create("changed later").await["id"].as_str().unwrap().to_owned();
    let (task, complete) = (format!("/tasks/{id}"), format!("/tasks/{id}/complete"));
    let calls = [
        ("POST", "/tasks", json!({"title": "made once"}), 201),
        ("PATCH", task.as_str(), json!({"title": "changed once", "status": "in_progress"}), 200),
        ("POST", complete.as_str(), json!({}), 200),
    ];
    let mut answers = Vec::new();
    for (number, (method, path, body, status)) in calls.iter().enumerate() {
        let key = format!("key {number}");
        let answer = app.call(method, path).header("idempotency-key", &key).json(body).await;
        assert_eq!(answer.status, *status);
        if *status == 201 {
            assert_eq!(
                answer.header("location"),
                format!("/tasks/{}", answer.json()["id"].as_str().unwrap())
            );
        }
        answers.push(answer.without_request());
    }
    // The task goes on; what was answered stays.
    assert_eq!(app.call("PATCH", &task).json(&json!({"title": "newer"})).await.json()["version"], 4);
    let events = app.events().await.len();

    for restarted in [false, true] {
        if restarted {
            app.stop().await;
            app = App::start(dir.path()).await;
        }
        for (number, (method, path, body, _)) in calls.iter().enumerate() {
            let key = format!("key {number}");
            let again = app.call(method, path).header("idempotency-key", &key).json(body).await;
            assert_eq!(again.header("idempotent-replayed"), "true");
            assert_eq!(again.without_request(), answers[number], "{method} {path}, restarted: {restarted}");
            let other = json!({"title": "another request"});
            let other_path = if *path == complete { "/tasks" } else { path };
            let other = app.call(method, other_path).header("idempotency-key", &key).json(&other).await;
            other.refused(422, &["Idempotency-Key"]);
        }
        assert_eq!(app.events().await.len(), events, "no second event");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let post = || app.call("POST", "/tasks").header("idempotency-key", "k");
    post().json(&json!({"title": ""})).await.refused(422, &["title"]);
    assert_eq!(post().json(&json!({"title": "better"})).await.status, 201);

    let path = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    let patch = |tag: &'static str| {
        let call = app.call("PATCH", &path).header("idempotency-key", "p").header("if-match", tag);
        async move { call.json(&json!({"title": "u"})).await }
    };
    assert_eq!(patch("\"2\"").await.status, 412);
    let done = patch("\"1\"").await;
    assert_eq!((done.status, done.header("etag")), (200, "\"2\""));
    assert_eq!(
        patch("\"1\"").await.without_request(),
        done.without_request(),
        "not stale: it is the same request"
    );
    // With another condition it is another request.
    for other in ["\"2\"", "*", "\"1\", \"2\""] {
        patch(other).await.refused(422, &["Idempotency-Key"]);
    }
    let unconditional = app.call("PATCH", &path).header("idempotency-key", "p");
    unconditional.json(&json!({"title": "u"})).await.refused(422, &["Idempotency-Key"]);
    app.stop().await;
}

#[tokio::test]
async fn a_key_has_1_to_255_visible_characters() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for key in ["x".repeat(255), "a key, with \"punctuation\"".to_owned()] {
        let answer =
            app.call("POST", "/tasks").header("idempotency-key", &key).json(&json!({"title": "t"})).await;
        assert_eq!(answer.status, 201);
    }
    for key in [vec![b'x'; 256], Vec::new(), "schlüssel".as_bytes().to_vec()] {
        let answer =
            app.call("POST", "/tasks").header("idempotency-key", &key).json(&json!({"title": "t"})).await;
        answer.refused(422, &["Idempotency-Key"]);
    }
    let twice = app.call("POST", "/tasks").header("idempotency-key", "a").header("idempotency-key", "a");
    twice.json(&json!({"title": "t"})).await.refused(422, &["Idempotency-Key"]);
    assert_eq!(app.events().await.len(), 2);
    app.stop().await;
}
