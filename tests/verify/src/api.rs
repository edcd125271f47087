//! What the Task API says of itself and of its tasks.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use harness::requests::Task;
use harness::{Error, Result};

#[derive(Deserialize)]
struct Page {
    items: Vec<Task>,
    next_cursor: Option<String>,
}

/// The address of an API as it is put before a path.
pub fn base(api: &str) -> String {
    api.trim_end_matches('/').to_owned()
}

/// Every task, in order of creation.
pub async fn all_tasks(url: &str) -> Result<Vec<Task>> {
    let http = harness::http()?;
    let mut tasks = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page = get(&http, &format!("{url}/tasks?limit=200{cursor}")).await?;
        tasks.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(tasks),
        }
    }
}

/// How many events wait for Kafka; none if the API does not answer.
pub async fn waiting(http: &reqwest::Client, url: &str) -> Option<u64> {
    let readiness = http.get(format!("{url}/readyz")).send().await.ok()?;
    let (status, said) = (readiness.status(), readiness.json::<Value>().await.ok()?);
    let waiting = said.pointer("/outbox/waiting")?.as_u64()?;
    (status == StatusCode::OK).then_some(waiting)
}

async fn get<T: serde::de::DeserializeOwned>(http: &reqwest::Client, url: &str) -> Result<T> {
    let failed = |error: reqwest::Error| Error::Failed(format!("GET {url}: {error}"));
    let answer = http.get(url).send().await.map_err(failed)?;
    answer.error_for_status().map_err(failed)?.json().await.map_err(failed)
}
