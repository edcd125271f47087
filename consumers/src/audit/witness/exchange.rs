//! One request to a witness, on a connection of its own.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use task_events::http_client::{self, Url, connect};
use task_events::tls::Tls;

/// Longest body of an answer that is read, in bytes: some lines of signatures.
const MAX_ANSWER: usize = 16 * 1024;

/// What a witness answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    /// The size that the witness has, where it refuses for another one.
    pub(super) fn size(&self) -> Option<u64> {
        if self.status == 409 { self.body.trim().parse().ok() } else { None }
    }
}

/// Submits a checkpoint. The caller bounds its time.
pub(super) async fn submit(url: &Url, tls: Option<&Tls>, body: String) -> Result<Answer, String> {
    let stream = connect((url.host(), url.port()), url.peer(), tls).await?;
    let request = Request::post(format!("{}/add-checkpoint", url.path().trim_end_matches('/')))
        .header(HOST, url.authority())
        .header(USER_AGENT, "task-events")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("a request cannot be made: {error}"))?;
    let answer = http_client::exchange(stream, request, Some(MAX_ANSWER)).await?;
    let status = answer.status().as_u16();
    Ok(Answer { status, body: String::from_utf8_lossy(answer.body()).into_owned() })
}
