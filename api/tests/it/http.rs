//! Creating, reading, changing and completing tasks; and each way in which that is refused.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::App;

const MAX_BODY: usize = 64 * 1024;

#[tokio::test]
async fn a_created_task_is_answered_stored_and_published() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let owner = Uuid::new_v4().to_string();
    let body = json!({"title": "  Größe prüfen ✓ ", "owner_id": owner});
    let answer = app.call("POST", "/tasks").json(&body).await;
    let task = answer.json();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), format!("/tasks/{}", task["id"].as_str().unwrap()));
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(task["title"], "Größe prüfen ✓");
    assert_eq!(
        (&task["status"], &task["version"], &task["owner_id"]),
        (&json!("pending"), &json!(1), &json!(owner))
    );
    assert_eq!(task["created_at"], task["updated_at"]);
    assert_eq!(task["id"].as_str().unwrap().parse::<Uuid>().unwrap().get_version_num(), 7);

    let read = app.call("GET", answer.header("location")).send().await;
    assert_eq!((read.status, read.json(), read.header("etag")), (200, task.clone(), "\"1\""));

    let events = app.events().await;
    assert_eq!(events.len(), 1);
    let event: Value = serde_json::from_slice(&events[0].payload).unwrap();
    assert_eq!(event["event_type"], "task.created");
    assert_eq!(
        event["data"],
        json!({"task_id": task["id"], "title": task["title"], "status": "pending", "owner_id": owner})
    );
    assert_eq!(
        event["metadata"],
        json!({"correlation_id": answer.header("x-correlation-id"), "source": "task-api"})
    );
    app.stop().await;
}

#[tokio::test]
async fn a_title_has_1_to_500_characters_after_trimming_one_visible_and_none_of_control() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let patched = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    let (long, long_wide) = ("x".repeat(500), "😀".repeat(500));
    for (given, kept) in [
        ("t", "t"),
        (" \t\r\n a title \u{85}\u{2003}\u{3000}", "a title"),
        ("a  b", "a  b"),
        ("\"quoted\" \\ {}", "\"quoted\" \\ {}"),
        ("\u{feff}a", "\u{feff}a"),
        ("👩\u{200d}🚀", "👩\u{200d}🚀"),
        (&long, &long),
        (&format!("  {long_wide}  "), &long_wide),
    ] {
        let body = json!({"title": given});
        assert_eq!(app.call("POST", "/tasks").json(&body).await.json()["title"], kept);
        assert_eq!(app.call("PATCH", &patched).json(&body).await.json()["title"], kept);
    }
    let (too_long, too_long_wide) = ("x".repeat(501), "é".repeat(501));
    for given in [
        json!(""),
        json!(" \u{3000}\n"),
        json!(too_long),
        json!(too_long_wide),
        json!("a\nb"),
        json!("a\u{0}b"),
        json!("a\u{1b}[2Jb"),
        json!("a\u{7f}b"),
        json!("a\u{85}b"),
        json!("a\u{2028}b"),
        json!("a\u{202e}b"),
        json!("\u{200b}\u{200b}"),
        json!("\u{feff}"),
        json!(" \u{ad}\u{2060} \u{3164}"),
        json!("\u{2800}"),
        json!("\u{301}\u{fe0f}"),
        json!("\u{ffff}"),
        json!(null),
        json!(7),
        json!(["t"]),
        json!({"t": 1}),
        json!(true),
    ] {
        let body = json!({"title": given});
        app.call("POST", "/tasks").json(&body).await.refused(422, &["title"]);
        app.call("PATCH", &patched).json(&body).await.refused(422, &["title"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn wrong_fields_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let patched = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    for (body, fields) in [
        (json!({}), vec!["title"]),
        (json!({"title": "t", "owner_id": "me"}), vec!["owner_id"]),
        (json!({"title": "t", "owner_id": 7}), vec!["owner_id"]),
        (json!({"title": "t", "owner_id": ""}), vec!["owner_id"]),
        (json!({"title": "t", "priority": 1}), vec!["priority"]),
        (json!({"title": "t", "status": "pending"}), vec!["status"]),
        (json!({"title": "t", "id": Uuid::now_v7()}), vec!["id"]),
        (json!({"Title": "t"}), vec!["title", "Title"]),
        (json!({"title": 1, "owner_id": 2, "a\nb": 3}), vec!["title", "owner_id", "a\nb"]),
        (json!([]), vec!["body"]),
        (json!("title"), vec!["body"]),
        (json!(null), vec!["body"]),
    ] {
        app.call("POST", "/tasks").json(&body).await.refused(422, &fields);
    }
    for (body, fields) in [
        (r#"{"title": "a", "title": "b"}"#, vec!["title"]),
        (r#"{"title": "a", "\u0074itle": "a"}"#, vec!["title"]),
        (r#"{"title": "", "owner_id": null, "x": 1, "owner_id": null}"#, vec!["owner_id", "title", "x"]),
    ] {
        app.call("POST", "/tasks").body(body).send().await.refused(422, &fields);
    }
    for (body, fields) in [
        (json!({"status": "done"}), vec!["status"]),
        (json!({"status": "Completed"}), vec!["status"]),
        (json!({"status": null}), vec!["status"]),
        (json!({"status": 1}), vec!["status"]),
        (json!({"owner_id": "me"}), vec!["owner_id"]),
        (json!({"owner_id": []}), vec!["owner_id"]),
        (json!({"version": 1}), vec!["version"]),
        (json!({"title": "", "status": "", "x": ""}), vec!["title", "status", "x"]),
        (json!([{"title": "t"}]), vec!["body"]),
    ] {
        app.call("PATCH", &patched).json(&body).await.refused(422, &fields);
    }
    assert_eq!(app.events().await.len(), 1, "nothing of it was done");
    app.stop().await;
}

#[tokio::test]
async fn an_owner_is_a_uuid_in_any_usual_form_or_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let id = "5f0c954e-3d4b-4b43-8d0e-6f3a2f6b8c11";
    for form in [id.to_owned(), id.to_uppercase(), id.replace('-', ""), format!("urn:uuid:{id}")] {
        let task = app.call("POST", "/tasks").json(&json!({"title": "t", "owner_id": form})).await.json();
        assert_eq!(task["owner_id"], id);
    }
    let task = app.call("POST", "/tasks").json(&json!({"title": "t", "owner_id": null})).await.json();
    assert_eq!(task["owner_id"], Value::Null);
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_json_is_400() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let patched = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    let half = MAX_BODY / 2;
    let bodies: [Vec<u8>; 12] = [
        b"".to_vec(),
        b"{".to_vec(),
        b"{\"title\": \"t\"} x".to_vec(),
        b"title=t".to_vec(),
        b"{'title': 't'}".to_vec(),
        b"{\"title\": \"t\",}".to_vec(),
        b"{\"title\": \"\xff\xfe\"}".to_vec(),
        b"{\"title\": \"\xc3\"}".to_vec(),
        b"{\"title\": \"\\ud800\"}".to_vec(),
        b"\xef\xbb\xbf{\"title\": \"t\"}".to_vec(),
        // Nested as deeply as fits: no stack may overflow.
        [vec![b'['; half], vec![b']'; half]].concat(),
        [b"{\"title\": ".to_vec(), vec![b'['; MAX_BODY - 100]].concat(),
    ];
    for body in bodies {
        app.call("POST", "/tasks").body(body.clone()).send().await.refused(400, &[]);
        app.call("PATCH", &patched).body(body).send().await.refused(400, &[]);
    }
    assert_eq!(app.events().await.len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_body_over_64_kib_is_413_however_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let padded = |len: usize| {
        let mut body = b"{\"title\": \"t\"}".to_vec();
        body.resize(len, b' ');
        body
    };
    assert_eq!(app.call("POST", "/tasks").body(padded(MAX_BODY)).send().await.status, 201);
    app.call("POST", "/tasks").body(padded(MAX_BODY + 1)).send().await.refused(413, &[]);

    let head = |framing: &str| {
        format!("POST /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{framing}\r\n\r\n")
    };
    let chunked = |len: usize, chunk: usize| {
        let mut request = head("Transfer-Encoding: chunked").into_bytes();
        for part in padded(len).chunks(chunk) {
            request.extend(format!("{:x}\r\n", part.len()).bytes());
            request.extend(part);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        request
    };
    for chunk in [1_000, MAX_BODY * 2] {
        let fits = app.raw(&chunked(MAX_BODY, chunk)).await;
        assert!(fits.starts_with("HTTP/1.1 201 "), "{fits}");
        let refused = app.raw(&chunked(MAX_BODY + 1, chunk)).await;
        assert!(
            refused.starts_with("HTTP/1.1 413 ") && refused.contains("application/problem+json"),
            "{refused}"
        );
    }
    // It is refused by its head alone, and while the rest still comes.
    let announced = app.raw(head("Content-Length: 1000000000000").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    app.call("POST", "/tasks").body(padded(10 << 20)).send().await.refused(413, &[]);
    assert_eq!(app.events().await.len(), 3);
    app.stop().await;
}

#[tokio::test]
async fn a_patch_makes_one_event_for_each_thing_that_happened() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("first").await;
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    let patch = async |body: Value| {
        let answer = app.call("PATCH", &path).json(&body).await;
        assert_eq!(answer.header("etag"), format!("\"{}\"", answer.json()["version"]));
        (answer.status, answer.json())
    };
    for nothing in [json!({}), json!({"title": "first"}), json!({"title": " first ", "status": "pending"})] {
        assert_eq!(patch(nothing).await, (200, task.clone()), "no new version");
    }
    let (_, changed) = patch(json!({"title": "second"})).await;
    assert_eq!((&changed["title"], &changed["version"]), (&json!("second"), &json!(2)));
    assert_eq!(changed["created_at"], task["created_at"]);
    assert!(changed["updated_at"].as_str() > task["updated_at"].as_str());
    assert_eq!(patch(json!({"status": "in_progress"})).await.1["version"], 3);
    assert_eq!(patch(json!({"title": "third", "status": "completed"})).await.1["version"], 4);
    assert_eq!(patch(json!({"status": "completed"})).await.1["version"], 4);
    assert_eq!(
        patch(json!({"title": "fourth"})).await.1["version"],
        5,
        "a completed task is not completed again"
    );
    assert_eq!(patch(json!({"status": "pending"})).await.1["version"], 6);
    let owned = |entry: (&str, &str, &str)| (entry.0.to_owned(), entry.1.to_owned(), entry.2.to_owned());
    let expected = [
        ("task.created", "first", "pending"),
        ("task.updated", "second", "pending"),
        ("task.updated", "second", "in_progress"),
        ("task.updated", "third", "completed"),
        ("task.completed", "third", "completed"),
        ("task.updated", "fourth", "completed"),
        ("task.updated", "fourth", "pending"),
    ];
    assert_eq!(app.events_of(&task["id"]).await, expected.map(owned));
    app.stop().await;
}

#[tokio::test]
async fn completing_twice_is_completing_once() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("t").await;
    let path = format!("/tasks/{}/complete", task["id"].as_str().unwrap());
    let first = app.call("POST", &path).send().await;
    assert_eq!((first.status, first.header("etag")), (200, "\"2\""));
    assert_eq!(first.json()["status"], "completed");
    let second = app.call("POST", &path).body("not read").send().await;
    assert_eq!((second.status, second.json()), (200, first.json()));
    let types: Vec<String> = app.events_of(&task["id"]).await.into_iter().map(|event| event.0).collect();
    assert_eq!(types, ["task.created", "task.completed"]);
    app.stop().await;
}

#[tokio::test]
async fn a_patch_gives_a_task_to_somebody_or_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("t").await;
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    let (first, second) = (json!(Uuid::new_v4()), json!(Uuid::new_v4()));
    let listed = async |owner: &Value| {
        let list = app.call("GET", &format!("/tasks?owner_id={}", owner.as_str().unwrap())).send().await;
        list.json()["items"].as_array().unwrap().len()
    };
    for (number, (body, owner, version)) in [
        (json!({"owner_id": first}), &first, 2),
        (json!({"owner_id": first}), &first, 2),
        (json!({"title": "u"}), &first, 3),
        (json!({"owner_id": second, "status": "in_progress"}), &second, 4),
        (json!({"owner_id": null}), &Value::Null, 5),
        (json!({"owner_id": null}), &Value::Null, 5),
        (json!({"owner_id": first}), &first, 6),
    ]
    .into_iter()
    .enumerate()
    {
        let patched = app.call("PATCH", &path).json(&body).await.json();
        assert_eq!((&patched["owner_id"], &patched["version"]), (owner, &json!(version)), "{number}");
        for other in [&first, &second] {
            assert_eq!(listed(other).await, usize::from(other == owner), "{number}");
        }
    }
    let events = app.events().await;
    let owners: Vec<Option<Uuid>> = events.iter().map(|entry| entry.event.data.owner_id).collect();
    let id = |owner: &Value| owner.as_str().map(|owner| owner.parse::<Uuid>().unwrap());
    let (first, second) = (id(&first), id(&second));
    assert_eq!(owners, [None, first, first, second, None, first]);
    app.stop().await;
}

#[tokio::test]
async fn if_none_match_keeps_named_versions_from_being_changed() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let path = format!("/tasks/{}", app.create("v1").await["id"].as_str().unwrap());
    let complete = format!("{path}/complete");
    for (tags, status) in [
        ("\"1\"", 412),
        ("W/\"1\"", 412),
        ("\"7\", \"1\"", 412),
        ("*", 412),
        ("1", 400),
        ("", 400),
        ("*, \"1\"", 400),
    ] {
        for (method, path) in [("PATCH", &path), ("POST", &complete), ("DELETE", &path)] {
            let answer =
                app.call(method, path).header("if-none-match", tags).json(&json!({"title": "v2"})).await;
            answer.refused(status, &[]);
        }
    }
    // It counts only where the answer would be 2xx without it.
    let missing = format!("/tasks/{}", Uuid::now_v7());
    for method in ["PATCH", "DELETE"] {
        let answer = app.call(method, &missing).header("if-none-match", "*").json(&json!({})).await;
        assert_eq!(answer.status, 404);
    }
    let both = app.call("PATCH", &path).header("if-match", "\"1\"").header("if-none-match", "\"2\"");
    assert_eq!(both.json(&json!({"title": "v2"})).await.header("etag"), "\"2\"");
    // If-Match is looked at first.
    let stale = app.call("PATCH", &path).header("if-match", "\"1\"").header("if-none-match", "\"2\"");
    let stale = stale.json(&json!({"title": "v3"})).await;
    assert!(stale.json()["detail"].as_str().unwrap().contains("none of those in If-Match"), "{stale:?}");

    // The list exists, and has no tag.
    for (header, tags, status) in [
        ("if-none-match", "*", 412),
        ("if-none-match", "\"1\"", 201),
        ("if-match", "*", 201),
        ("if-match", "\"1\"", 412),
        ("if-match", "1", 400),
        ("if-none-match", "1", 400),
    ] {
        let answer = app.call("POST", "/tasks").header(header, tags).json(&json!({"title": "t"})).await;
        assert_eq!(answer.status, status, "{header}: {tags}");
    }
    assert_eq!(app.events().await.len(), 4);
    app.stop().await;
}

#[tokio::test]
async fn if_match_lets_only_the_known_version_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let id = app.create("v1").await["id"].clone();
    let path = format!("/tasks/{}", id.as_str().unwrap());
    app.call("PATCH", &path).json(&json!({"title": "v2"})).await;
    let stale = ["\"1\"", "\"3\"", "\"1\", \"3\"", "W/\"2\"", "\"02\"", "\"+2\"", "\"\"", "\"other\""];
    let no_tags = ["2", "", "'2'", "\"2", "\"2\" \"2\"", "*, \"2\"", "W/2"];
    let refused = stale.map(|tag| (tag, 412)).into_iter().chain(no_tags.map(|text| (text, 400)));
    for (if_match, status) in refused {
        let complete = format!("{path}/complete");
        for (method, path, body) in [
            ("PATCH", &path, json!({"title": "no"})),
            ("PATCH", &path, json!({})),
            ("POST", &complete, json!({})),
        ] {
            let answer = app.call(method, path).header("if-match", if_match).json(&body).await;
            answer.refused(status, &[]);
            let shows_the_form = answer.json()["detail"].as_str().unwrap().contains("If-Match: \"1\"");
            assert_eq!(shows_the_form, status == 400, "{if_match}");
        }
        for method in ["GET", "HEAD"] {
            assert_eq!(app.call(method, &path).header("if-match", if_match).send().await.status, status);
        }
    }
    for (version, current) in [(3, "\"2\""), (4, "*"), (5, "\"1\",\"4\" , \"9\""), (6, "W/\"5\", \"5\"")] {
        let body = json!({"title": format!("v{version}")});
        let answer = app.call("PATCH", &path).header("if-match", current).json(&body).await;
        assert_eq!((answer.status, &answer.json()["version"]), (200, &json!(version)), "{current}");
    }
    // Several header lines are one list.
    let several = app.call("PATCH", &path).header("if-match", "\"1\"").header("if-match", "\"6\"");
    assert_eq!(several.json(&json!({"title": "v7"})).await.status, 200);
    assert_eq!(app.call("GET", &path).header("if-match", "\"7\"").send().await.status, 200);
    let unknown = app.call("PATCH", &format!("/tasks/{}", Uuid::now_v7())).header("if-match", "*");
    unknown.json(&json!({})).await.refused(404, &[]);
    assert_eq!(app.events_of(&id).await.len(), 7);
    app.stop().await;
}

#[tokio::test]
async fn if_none_match_saves_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let path = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    for same in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        for method in ["GET", "HEAD"] {
            let answer = app.call(method, &path).header("if-none-match", same).send().await;
            assert_eq!((answer.status, answer.header("etag")), (304, "\"1\""), "{same}");
        }
    }
    for other in ["\"2\"", "1", "", "\"x\""] {
        assert_eq!(app.call("GET", &path).header("if-none-match", other).send().await.status, 200, "{other}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_correlation_id_is_taken_over_or_made() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let given = Uuid::new_v4().to_string();
    let post = |id: &str| app.call("POST", "/tasks").header("x-correlation-id", id);
    for form in [given.clone(), given.to_uppercase()] {
        let answer = post(&form).json(&json!({"title": "t"})).await;
        assert_eq!(answer.header("x-correlation-id"), given);
    }
    for (n, wrong) in ["", "7", "not a uuid"].into_iter().enumerate() {
        let answer = post(wrong).json(&json!({"title": "t"})).await;
        let made = answer.header("x-correlation-id");
        let events = app.events().await;
        assert_eq!(events[n + 2].event.metadata.correlation_id.to_string(), made);
        assert_ne!(made, given);
    }
    let twice =
        app.call("GET", "/tasks").header("x-correlation-id", &given).header("x-correlation-id", &given);
    assert_ne!(twice.send().await.header("x-correlation-id"), given, "of two, none is meant");
    let refused = post(&given).json(&json!({})).await;
    assert_eq!(refused.header("x-correlation-id"), given, "in an error, too");
    let lost = app.call("GET", "/nowhere").header("x-correlation-id", &given).send().await;
    assert_eq!(lost.header("x-correlation-id"), given);
    app.stop().await;
}

#[tokio::test]
async fn a_trace_context_goes_with_the_event() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (given, kept) in [(Some(traceparent), Some(traceparent)), (Some("nonsense"), None), (None, None)] {
        let call = app.call("POST", "/tasks");
        let call = match given {
            Some(given) => call.header("traceparent", given),
            None => call,
        };
        call.json(&json!({"title": "t"})).await;
        assert_eq!(app.events().await.last().unwrap().traceparent.as_deref(), kept);
    }
    app.stop().await;
}

#[tokio::test]
async fn an_unknown_id_is_404_whatever_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let known = app.create("t").await["id"].as_str().unwrap().to_owned();
    let ids = [
        Uuid::now_v7().to_string(),
        Uuid::nil().to_string(),
        "1".to_owned(),
        Uuid::now_v7().to_string().to_uppercase(),
        Uuid::now_v7().simple().to_string(),
        format!("{known}x"),
        format!("%20{known}"),
        format!("{known}%20"),
        format!("%7B{known}"),
        format!("urn:uuid:{known}x"),
        "%00".to_owned(),
        "%ff%fe".to_owned(),
        "a%20b".to_owned(),
        "%2e%2e%2fetc".to_owned(),
        "%F0%9F%98%80".to_owned(),
        "x".repeat(4_000),
    ];
    for id in ids {
        let path = format!("/tasks/{id}");
        for (method, path) in
            [("GET", path.clone()), ("PATCH", path.clone()), ("POST", format!("{path}/complete"))]
        {
            let answer = app.call(method, &path).body("{}").send().await;
            answer.refused(404, &[]);
            assert_eq!(answer.json()["detail"], "Task not found", "{method} {path}");
        }
        assert_eq!(app.call("HEAD", &path).send().await.status, 404);
    }
    for path in [
        "//",
        "/task",
        "/tasks/",
        "/Tasks",
        "/tasks//complete",
        "//tasks",
        "/tasks/1/2",
        "/tasks/1/complete/",
        "/metrics/x",
    ] {
        app.call("GET", path).send().await.refused(404, &[]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_known_id_is_found_whatever_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = app.create("t").await;
    let id: Uuid = task["id"].as_str().unwrap().parse().unwrap();
    let upper = id.to_string().to_uppercase();
    let mixed: String =
        upper.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect();
    let encoded: String = id.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let forms = [
        upper,
        mixed,
        encoded,
        id.simple().to_string(),
        format!("%7B{id}%7D"),
        format!("urn:uuid:{id}"),
        id.to_string(),
    ];
    for (form, version) in forms.into_iter().zip((2..).step_by(3)) {
        let path = format!("/tasks/{form}");
        assert_eq!(app.call("GET", &path).send().await.json()["id"], task["id"], "{form}");
        assert_eq!(app.call("HEAD", &path).send().await.status, 200, "{form}");
        let body = json!({"title": form});
        assert_eq!(app.call("PATCH", &path).json(&body).await.json()["version"], version, "{form}");
        assert_eq!(app.call("POST", &format!("{path}/complete")).send().await.json()["id"], task["id"]);
        let reopened = app.call("PATCH", &path).json(&json!({"status": "pending"})).await;
        assert_eq!(reopened.json()["id"], task["id"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_call_of_a_task_has_no_query_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let path = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    for (method, path) in [
        ("POST", "/tasks"),
        ("GET", path.as_str()),
        ("PATCH", path.as_str()),
        ("POST", &format!("{path}/complete")),
    ] {
        let body = json!({"title": "u"});
        app.call(method, &format!("{path}?dry_run=1&x")).json(&body).await.refused(422, &["dry_run", "x"]);
        app.call(method, &format!("{path}?a=%zz")).json(&body).await.refused(422, &["a"]);
        assert!(app.call(method, &format!("{path}?")).json(&body).await.status < 300);
    }
    for path in ["/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"] {
        assert_eq!(
            app.call("GET", &format!("{path}?_=17")).send().await.status,
            200,
            "caches are avoided so"
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let task = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    let ready = app.call("HEAD", "/readyz").send().await;
    assert_eq!((ready.status, ready.body.len()), (200, 0), "its length is another each time");
    for path in [task.as_str(), "/", "/tasks", "/healthz", "/openapi.json", "/docs"] {
        let (get, head) = (app.call("GET", path).send().await, app.call("HEAD", path).send().await);
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, get.header("content-length")),
            "{path}"
        );
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_http_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for garbage in [
        "GET /tasks HTTP/1.1\r\n\r\n",
        "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\0\r\n\r\n",
    ] {
        let answer = app.raw(garbage.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{garbage:?}: {answer}"));
        assert!(
            head.starts_with("HTTP/1.1 400 ") && head.contains("x-correlation-id: "),
            "{garbage:?}: {answer}"
        );
        assert!(head.contains("content-type: application/problem+json"), "{garbage:?}: {answer}");
        assert_eq!(serde_json::from_str::<Value>(body).unwrap()["status"], 400);
    }
    app.create("still there").await;
    assert_eq!(app.events().await.len(), 1);
    app.stop().await;
}
