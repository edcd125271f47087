//! `GET /tasks`: every filter with every page size gives the tasks in the order of their creation.

use serde_json::{Value, json};

use crate::support::App;

/// All items, page by page.
async fn walk(app: &App, query: &str, limit: usize) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/tasks?limit={limit}{query}{cursor}");
        let answer = app.call("GET", &path).send().await;
        assert_eq!(answer.status, 200, "{path}");
        let mut page = answer.json();
        let Value::Array(found) = page["items"].take() else { panic!("{path}: {page}") };
        assert!(found.len() <= limit);
        items.extend(found);
        match page["next_cursor"].as_str() {
            // A cursor is given only where something follows.
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
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
    for owner in [None, Some(&owners[1]), Some(&owners[2]), Some(&json!(uuid::Uuid::new_v4()))] {
        for status in [None, Some("pending"), Some("in_progress"), Some("completed")] {
            let mut query =
                owner.map_or(String::new(), |owner| format!("&owner_id={}", owner.as_str().unwrap()));
            query += &status.map_or(String::new(), |status| format!("&status={status}"));
            let fits = |task: &&Value| {
                owner.is_none_or(|owner| task["owner_id"] == *owner)
                    && status.is_none_or(|status| task["status"] == status)
            };
            let expected: Vec<&Value> = tasks.iter().filter(fits).collect();
            for limit in [1, 7, expected.len().max(1), 200] {
                let found = walk(&app, &query, limit).await;
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query} by {limit}");
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
        ("sort=title", vec!["sort"]),
        ("limit=0&status=x&owner_id=y&cursor=z&a=b", vec!["limit", "status", "owner_id", "cursor", "a"]),
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
    for query in ["", "limit=200", "limit=1", "status=&owner_id=&limit=&cursor="] {
        assert_eq!(app.call("GET", &format!("/tasks?{query}")).send().await.status, 200, "{query}");
    }
    app.stop().await;
}
