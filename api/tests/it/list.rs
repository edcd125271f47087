//! `GET /tasks`: every filter with every page size gives the tasks in the order of their creation.

use serde_json::{Value, json};

use crate::support::App;

/// All items, page by page: by way of `Link`, which leads to where the cursor does.
async fn walk(app: &App, query: &str, limit: usize) -> Vec<Value> {
    let mut items = Vec::new();
    let mut path = format!("/tasks?limit={limit}{query}");
    loop {
        let answer = app.call("GET", &path).send().await;
        assert_eq!(answer.status, 200, "{path}");
        let mut page = answer.json();
        let Value::Array(found) = page["items"].take() else { panic!("{path}: {page}") };
        assert!(found.len() <= limit);
        items.extend(found);
        // A cursor is given only where something follows.
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert!(!answer.headers.contains_key("link"), "{path}");
            return items;
        };
        let link = answer.header("link").strip_suffix(">; rel=\"next\"").unwrap();
        let next = link.strip_prefix('<').unwrap().to_owned();
        assert!(next.ends_with(&format!("limit={limit}&cursor={cursor}")), "{next}");
        let by_cursor = format!("/tasks?limit={limit}{query}&cursor={cursor}");
        let by_cursor = app.call("GET", &by_cursor).send().await;
        assert_eq!(by_cursor.body, app.call("GET", &next).send().await.body, "{next}");
        path = next;
        assert_eq!(items.len() % limit, 0, "{path}: a page before the last is full");
    }
}

#[tokio::test]
async fn pages_hold_each_task_once_in_order_whatever_the_filter() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let owners = [Value::Null, json!(uuid::Uuid::new_v4()), json!(uuid::Uuid::new_v4())];
    let mut tasks = Vec::new();
    for number in 0..60 {
        let body = json!({"title": format!("task {number}"), "owner_id": owners[number % 3]});
        tasks.push(app.call("POST", "/tasks").json(&body).await.json());
    }
    // Changed in another order than created, so that no index has the order by luck.
    for number in (0..60).rev().filter(|number| number % 4 != 0) {
        let status = ["pending", "in_progress", "completed"][number / 4 % 3];
        let path = format!("/tasks/{}", tasks[number]["id"].as_str().unwrap());
        tasks[number] = app.call("PATCH", &path).json(&json!({"status": status})).await.json();
    }
    // RFC 3339 in UTC with microseconds sorts as text.
    let time = |number: usize| tasks[number]["created_at"].as_str().unwrap().to_owned();
    let (early, late) = (time(13), time(41));
    type Range = Box<dyn Fn(&str) -> bool>;
    let times: [(String, Range); 4] = [
        (String::new(), Box::new(|_| true)),
        (
            format!("&created_after={early}"),
            Box::new({
                let early = early.clone();
                move |time| time > early.as_str()
            }),
        ),
        (
            format!("&created_before={late}"),
            Box::new({
                let late = late.clone();
                move |time| time < late.as_str()
            }),
        ),
        (
            format!("&created_after={early}&created_before={late}"),
            Box::new(move |time| time > early.as_str() && time < late.as_str()),
        ),
    ];
    for owner in [None, Some(&owners[1]), Some(&owners[2]), Some(&json!(uuid::Uuid::new_v4()))] {
        for status in [None, Some("pending"), Some("in_progress"), Some("completed")] {
            let mut query =
                owner.map_or(String::new(), |owner| format!("&owner_id={}", owner.as_str().unwrap()));
            query += &status.map_or(String::new(), |status| format!("&status={status}"));
            let fits = |task: &&Value| {
                owner.is_none_or(|owner| task["owner_id"] == *owner)
                    && status.is_none_or(|status| task["status"] == status)
            };
            for (times, range) in &times {
                let mut expected: Vec<&Value> = tasks
                    .iter()
                    .filter(fits)
                    .filter(|task| range(task["created_at"].as_str().unwrap()))
                    .collect();
                for limit in [7, expected.len().max(1), 200] {
                    let found = walk(&app, &format!("{query}{times}"), limit).await;
                    assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}{times} by {limit}");
                }
                expected.reverse();
                let found = walk(&app, &format!("{query}{times}&order=created_desc"), 7).await;
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}{times} from the newest");
            }
        }
    }
    let page = app.call("GET", "/tasks").send().await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 50, "unless said otherwise");
    app.stop().await;
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for (query, fields) in [
        ("limit=0", vec!["limit"]),
        ("limit=201", vec!["limit"]),
        ("limit=-1", vec!["limit"]),
        ("limit=many", vec!["limit"]),
        ("limit=99999999999999999999999", vec!["limit"]),
        ("status=done", vec!["status"]),
        ("status=Pending", vec!["status"]),
        ("owner_id=me", vec!["owner_id"]),
        ("cursor=%00", vec!["cursor"]),
        ("cursor=1", vec!["cursor"]),
        ("cursor=0199c2a07d1e7c3a9f602b1d3c4e5f60", vec!["cursor"]),
        ("order=created", vec!["order"]),
        ("created_after=yesterday", vec!["created_after"]),
        ("created_before=2026-01-15T10:30:00+01:00", vec!["created_before"]),
        ("sort=title", vec!["sort"]),
        ("limit=0&status=x&owner_id=y&cursor=z&a=b", vec!["limit", "status", "owner_id", "a", "cursor"]),
        ("status=%ff", vec!["status"]),
        ("status=%zz", vec!["status"]),
        ("limit=1%", vec!["limit"]),
        ("limit=5&limit=5", vec!["limit"]),
        ("status=pending&status=completed", vec!["status"]),
        ("status=&status=completed", vec!["status"]),
        ("limit=1&cursor=x&lim%69t=2", vec!["limit"]),
        ("x=1&x=2", vec!["x"]),
    ] {
        app.call("GET", &format!("/tasks?{query}")).send().await.refused(422, &fields);
    }
    for query in [
        "",
        "limit=200",
        "limit=1",
        "status=&owner_id=&limit=&cursor=&order=&created_after=&created_before=",
        "created_after=2026-01-15T10:30:00%2B01:00",
        "created_after=0000-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z",
        "created_after=9999-12-31T23:59:59Z&created_before=0000-01-01T00:00:00Z",
    ] {
        assert_eq!(app.call("GET", &format!("/tasks?{query}")).send().await.status, 200, "{query}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_cursor_is_refused_by_another_query() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    for number in 0..3 {
        app.create(&format!("task {number}")).await;
    }
    let first = app.call("GET", "/tasks?limit=1&status=pending").send().await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let with = |query: &str| app.call("GET", &format!("/tasks?{query}cursor={cursor}")).send();
    assert_eq!(with("status=pending&limit=2&").await.status, 200, "the page may have another size");
    for other in [
        "",
        "status=completed&",
        "status=pending&order=created_desc&",
        "status=pending&created_after=2026-01-15T10:30:00Z&",
    ] {
        with(other).await.refused(422, &["cursor"]);
    }
    app.stop().await;
}
