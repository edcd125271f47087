//! The Task API as a client sees it.

use crate::{Error, Result, eventually, http};
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
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self { url: url.to_owned(), http: http()? })
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
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = Box::pin(request.send()).await?;
        Ok((answer.status(), answer.json().await.unwrap_or_default()))
    }

    /// Creates a task.
    pub async fn create(&self, title: &str) -> Result<Value> {
        self.changed(Method::POST, "/tasks", Some(json!({"title": title}))).await
    }

    /// Changes a task.
    pub async fn patch(&self, task: &Value, change: Value) -> Result<Value> {
        self.changed(Method::PATCH, &format!("/tasks/{}", id_of(task)?), Some(change)).await
    }

    /// Completes a task.
    pub async fn complete(&self, task: &Value) -> Result<Value> {
        self.changed(Method::POST, &format!("/tasks/{}/complete", id_of(task)?), None).await
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> Result<(StatusCode, Value)> {
        self.call(Method::GET, "/readyz", None).await
    }

    /// Waits until Kafka has acknowledged every event.
    pub async fn delivered(&self) -> Result<()> {
        let empty = async || Ok((self.waiting_events().await? == Some(0)).then_some(()));
        eventually("the outbox to be empty", Duration::from_secs(60), empty).await
    }

    /// How many events wait in the outbox, if `/readyz` says so.
    pub(crate) async fn waiting_events(&self) -> Result<Option<u64>> {
        let (_, ready) = self.readiness().await?;
        Ok(ready.pointer("/outbox/waiting").and_then(Value::as_u64))
    }

    async fn changed(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, task) = self.call(method.clone(), path, body).await?;
        if status.is_success() {
            return Ok(task);
        }
        Err(Error::failed(format!("{method} {path}: {status} {task}")))
    }
}

/// The id of a task, or of a task's event.
pub fn id_of(task: &Value) -> Result<&str> {
    let id = task.get("id").and_then(Value::as_str);
    id.ok_or_else(|| Error::failed(format!("no id in {task}")))
}
