//! One answer of the API, as its client reads it: in time, or after the client has given it up.

use std::pin::Pin;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::requests::{Answer, Late, Request, Task, now};

/// Why there is no answer where the client has given up.
pub const TIMEOUT: &str = "timeout";

/// An answer to come.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a client has given up and waits for all the same, each with the place of its request.
#[derive(Default)]
pub(crate) struct LateAnswers(JoinSet<(usize, Late)>);

impl LateAnswers {
    /// Waits for one beside the client's next requests.
    pub(crate) fn wait_for(&mut self, place: usize, pending: Pending, limit: Duration) {
        self.0.spawn(async move {
            let answer = timeout(limit, pending).await;
            let answer = answer.unwrap_or_else(|_| Answer::None { why: TIMEOUT.to_owned() });
            (place, Late { ended: now(), answer })
        });
    }

    /// Waits until each is there, or its time is up, and puts it to its request.
    pub(crate) async fn join(mut self, requests: &mut [Request]) {
        while let Some(Ok((place, late))) = self.0.join_next().await {
            if let Some(request) = requests.get_mut(place) {
                request.late = Some(late);
            }
        }
    }
}

/// `before`: the task that is changed, as it was last answered. The answer to its deletion has none.
pub(crate) async fn answer(call: reqwest::RequestBuilder, before: Option<Task>) -> Answer {
    let answered = async {
        let response = call.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.text().await?))
    };
    match answered.await {
        Err(error) => Answer::None { why: innermost(&error) },
        Ok((StatusCode::NO_CONTENT, _)) => match before {
            Some(before) => Answer::Done { task: Task { version: before.version + 1, ..before } },
            None => Answer::None { why: "204 and no task".to_owned() },
        },
        Ok((status, text)) if status.is_success() => match serde_json::from_str(&text) {
            Ok(task) => Answer::Done { task },
            Err(error) => Answer::None { why: format!("{status} and no task: {error}") },
        },
        Ok((status, _)) if status.is_server_error() => Answer::Failed { status: status.as_u16() },
        Ok((status, _)) => Answer::Refused { status: status.as_u16() },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
