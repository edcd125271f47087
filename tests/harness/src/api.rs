//! The Task API as a client sees it.

use crate::{eventually, http};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// A client of one Task API.
pub struct Api {
    url: String,
    http: reqwest::Client,
}

impl Api {
    /// A client of the API at this address.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), http: http() }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Calls the API: the status, and the body if it is JSON.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// Creates a task.
    pub async fn create(&self, title: &str) -> Value {
        self.changed(Method::POST, "/tasks", Some(json!({"title": title}))).await
    }

    /// Changes a task.
    pub async fn patch(&self, task: &Value, change: Value) -> Value {
        self.changed(Method::PATCH, &format!("/tasks/{}", id_of(task)), Some(change)).await
    }

    /// Completes a task.
    pub async fn complete(&self, task: &Value) -> Value {
        self.changed(Method::POST, &format!("/tasks/{}/complete", id_of(task)), None).await
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> (StatusCode, Value) {
        self.call(Method::GET, "/readyz", None).await
    }

    /// Waits until Kafka has acknowledged every event.
    pub async fn delivered(&self) {
        let empty = async || (self.readiness().await.1["outbox"]["waiting"] == 0).then_some(());
        eventually("the outbox to be empty", Duration::from_secs(60), empty).await;
    }

    async fn changed(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, task) = self.call(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {task}");
        task
    }
}

/// The id of a task, or of a task's event.
pub fn id_of(task: &Value) -> &str {
    task["id"].as_str().unwrap_or_else(|| panic!("no id: {task}"))
}
