//! One delivery: a POST to the endpoint, and what its answer means.
//!
//! # Invariants
//!
//! 1. *No request into the inside* (SSRF): the name is resolved for each delivery, every address that it has must be public
//!    or in WEBHOOK_ALLOWED_NETWORKS, and the connection is made to an address that was looked at, with TLS or without. A
//!    redirect is not followed.
//! 2. *A receiver takes bounded time and memory*: [`TIMEOUT`] for all of it; of the answer the head is read, within the
//!    bound of [`http_client`], and its body is not.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use task_events::http_client::{self, Url};
use task_events::networks::{Networks, is_public};
use task_events::tls::Tls;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::signature::Secrets;

/// Time for a delivery, from the name's resolution to the head of the answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest pause that a receiver may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Where messages go.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    /// For https.
    pub(super) tls: Option<Tls>,
    /// Internal networks that may be called.
    pub(super) allowed: Networks,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It does not, and may later.
    Failed(String),
    /// It asks for a pause: so long, and not only for this message.
    Paused(Duration, String),
    /// There is no endpoint any more.
    Gone,
}

/// A message, as it is sent at each try.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) id: &'a str,
    pub(super) body: &'a Bytes,
}

/// Sends a message.
pub(super) async fn deliver(endpoint: &Endpoint, secrets: &Secrets, message: &Message<'_>) -> Outcome {
    match timeout(TIMEOUT, exchange(endpoint, secrets, message)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(why)) => Outcome::Failed(why),
        Err(_) => Outcome::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn exchange(
    Endpoint { url, tls, allowed }: &Endpoint,
    secrets: &Secrets,
    message: &Message<'_>,
) -> Result<Outcome, String> {
    let addresses = addresses(url, allowed).await?;
    let stream = http_client::connect(addresses.as_slice(), url.peer(), tls.as_ref()).await?;
    let response = http_client::exchange(stream, request(url, secrets, message)?, None).await?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Ok(meaning(response.status(), retry_after))
}

/// The addresses of the endpoint, if none of them is one that must not be called.
async fn addresses(url: &Url, allowed: &Networks) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((url.host(), url.port())).await;
    let found: Vec<SocketAddr> =
        found.map_err(|error| format!("its name cannot be resolved: {error}"))?.collect();
    let is_forbidden = |address: &&SocketAddr| !is_public(address.ip()) && !allowed.contain(address.ip());
    match (found.iter().find(is_forbidden), found.is_empty()) {
        (Some(address), _) => Err(format!(
            "its address {} is internal: name it in WEBHOOK_ALLOWED_NETWORKS if it is to be called",
            address.ip()
        )),
        (None, true) => Err("its name has no address".to_owned()),
        (None, false) => Ok(found),
    }
}

fn request(url: &Url, secrets: &Secrets, message: &Message<'_>) -> Result<Request<Full<Bytes>>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let Message { id, body } = message;
    Request::post(url.path())
        .header(HOST, url.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, "task-events")
        .header(CONNECTION, "close")
        .header("webhook-id", *id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", secrets.sign(id, now, body))
        .body(Full::new(Bytes::clone(body)))
        .map_err(|error| format!("a request cannot be made: {error}"))
}

/// What an answer means for the message.
fn meaning(status: StatusCode, retry_after: Option<&str>) -> Outcome {
    let answered = || format!("it answered {}", status.as_u16());
    match status {
        _ if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            // A date is a form that receivers of webhooks do not send; the backoff serves for it.
            let pause = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            pause.map_or_else(
                || Outcome::Failed(answered()),
                |pause| Outcome::Paused(pause.min(MAX_RETRY_AFTER), answered()),
            )
        }
        _ if status.is_redirection() => Outcome::Failed(format!(
            "{}; redirects are not followed: set WEBHOOK_URL to the place itself",
            answered()
        )),
        _ => Outcome::Failed(answered()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_what_it_says() {
        let of = |status: u16, retry_after| meaning(StatusCode::from_u16(status).unwrap(), retry_after);
        assert_eq!(
            (of(200, None), of(204, None), of(410, None)),
            (Outcome::Delivered, Outcome::Delivered, Outcome::Gone)
        );
        let paused = |seconds| Outcome::Paused(Duration::from_secs(seconds), "it answered 429".to_owned());
        assert_eq!(of(429, Some("7")), paused(7));
        assert_eq!(of(429, Some("86400")), paused(900));
        for status in [301, 307, 400, 404, 429, 500, 503] {
            let Outcome::Failed(why) = of(status, None) else { panic!("{status}") };
            assert!(why.contains(&status.to_string()), "{why}");
        }
        assert!(matches!(of(503, Some("Wed, 21 Oct 2026 07:28:00 GMT")), Outcome::Failed(_)));
    }

    #[tokio::test]
    async fn an_internal_address_is_not_called_whatever_its_form() {
        let allowed = Networks::parse("127.0.0.2").unwrap();
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]:1/",
            "http://169.254.169.254/latest/meta-data",
            "http://[fd00:ec2::254]/",
            "http://10.0.0.1/",
        ] {
            let why = addresses(&url.parse().unwrap(), &allowed).await.unwrap_err();
            assert!(why.contains("is internal"), "{url}: {why}");
        }
        assert!(addresses(&"http://127.0.0.2:1/".parse().unwrap(), &allowed).await.is_ok());
    }
}
