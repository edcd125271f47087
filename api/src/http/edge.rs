//! What a request must pass before a handler, where it is configured: who calls, how often, and from which page.
//!
//! | what | by | refused with |
//! | --- | --- | --- |
//! | identity, scope | `API_TOKENS_FILE` | 400, 401, 403 (RFC 6750) |
//! | rate | `RATE_LIMIT_PER_SECOND` | 429 |
//! | origin of a page | `CORS_ALLOWED_ORIGINS` | nothing: the browser withholds the answer |
//!
//! # Invariants
//!
//! 1. *What is not known to be open asks for a token*: also a path that does not exist, and one that is added later.
//!    Open are pages and documents that are the same for everybody, the probes and the metrics, which tell of no task,
//!    and OPTIONS, which does nothing.
//! 2. *Who looks needs `read`, who changes `write`*: by the method alone.
//! 3. *A header that a client can write is no address*: `X-Forwarded-For` counts only from TRUSTED_PROXIES.
//! 4. *A probe is never refused*: an orchestrator would kill a process that is only busy.

use std::net::IpAddr;

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::http::{Method, StatusCode};
use task_events::access::Scope;

use super::cors::{self, AllowedOrigins};
use super::problem::Problem;
use super::proxies::TrustedProxies;
use crate::access::{Access, Actor, Caller, Denied};
use crate::rate_limit::{Key, RateLimiter};

/// Paths that tell of no task and no caller.
const OPEN: [&str; 8] = [
    "/",
    "/docs",
    "/openapi.json",
    "/asyncapi.json",
    "/schemas/task-event.json",
    "/healthz",
    "/readyz",
    "/metrics",
];
/// Of them, what is asked every few seconds for ever.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What stands before the handlers.
#[derive(Debug, Default)]
pub struct Edge {
    /// Who may call. `None`: everybody, without a name.
    pub access: Option<Access>,
    /// How often. `None`: as often as the process takes it.
    pub rate_limiter: Option<RateLimiter>,
    /// Pages of which origins may.
    pub origins: AllowedOrigins,
    /// Whose word for a client's address counts.
    pub proxies: TrustedProxies,
}

/// What a request may do.
pub(super) enum Admission {
    /// It goes on to its handler, as that caller.
    Admitted(Option<Actor>),
    /// It is answered.
    Answered(HttpResponse),
    /// It is refused, and who it was, where that is known.
    Refused(Problem, Option<Actor>),
}

impl Edge {
    /// Whether anything is configured.
    pub(super) fn is_open(&self) -> bool {
        self.access.is_none() && self.rate_limiter.is_none() && self.origins.is_empty()
    }

    pub(super) async fn admit(&self, request: &ServiceRequest) -> Admission {
        if cors::is_preflight(request) && self.origins.of(request).is_some() {
            return Admission::Answered(cors::preflight());
        }
        if self.is_costly_guess(request) {
            return Admission::Refused(too_many(), None);
        }
        let mut caller = self.caller(request);
        let mut is_counted = false;
        if let (Err((Denied::UnknownKey | Denied::NoKeys, _)), Some(access)) = (&caller, &self.access) {
            // Before the wait, which costs more than an answer.
            if !self.is_within_rate(request, None) {
                return Admission::Refused(too_many(), None);
            }
            is_counted = true;
            let is_known = access.learn_keys().await;
            caller = self.caller(request).map_err(|(denied, actor)| match denied {
                Denied::UnknownKey if is_known => (Denied::Unknown, actor),
                denied => (denied, actor),
            });
        }
        let actor = match &caller {
            Ok(caller) => caller.as_ref().map(|caller| Actor::clone(&caller.actor)),
            Err((_, actor)) => actor.clone(),
        };
        // Counted once against its address; a caller that became known, against itself as well.
        is_counted &= actor.is_none();
        if !is_counted && !self.is_within_rate(request, actor.as_ref()) {
            return Admission::Refused(too_many(), actor);
        }
        match caller {
            Ok(_) => Admission::Admitted(actor),
            Err((denied, actor)) => Admission::Refused(denied.into(), actor),
        }
    }

    /// Who calls, where that is asked for.
    fn caller(&self, request: &ServiceRequest) -> Result<Option<Caller>, (Denied, Option<Actor>)> {
        let Some(access) = &self.access else { return Ok(None) };
        let method = request.method();
        if method == Method::OPTIONS || OPEN.contains(&request.path()) {
            return Ok(None);
        }
        let wanted = if matches!(*method, Method::GET | Method::HEAD) { Scope::Read } else { Scope::Write };
        let mut headers = request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes);
        let header = headers.next();
        if headers.next().is_some() {
            return Err((Denied::Malformed, None));
        }
        let caller = access.caller(header).map_err(|denied| (denied, None))?;
        if caller.scopes.contain(wanted) {
            Ok(Some(caller))
        } else {
            Err((Denied::Scope(wanted), Some(caller.actor)))
        }
    }

    /// Whether a caller that was let in to look still may.
    pub(super) fn still_admits(&self, authorization: Option<&HeaderValue>) -> bool {
        self.access.as_ref().is_none_or(|access| {
            let caller = access.caller(authorization.map(HeaderValue::as_bytes));
            caller.is_ok_and(|caller| caller.scopes.contain(Scope::Read))
        })
    }

    /// Whether a signature would be verified for an address that is over its rate: most of what a request can cost.
    fn is_costly_guess(&self, request: &ServiceRequest) -> bool {
        let (Some(access), Some(limiter)) = (&self.access, &self.rate_limiter) else { return false };
        let header = request.headers().get(AUTHORIZATION);
        header.is_some_and(|header| access.verifies(header.as_bytes()))
            && self.address(request).is_some_and(|address| limiter.is_used_up(Key::of(address)))
    }

    fn is_within_rate(&self, request: &ServiceRequest, actor: Option<&Actor>) -> bool {
        let Some(limiter) = self.rate_limiter.as_ref().filter(|_| !PROBES.contains(&request.path())) else {
            return true;
        };
        match (actor, self.address(request)) {
            (Some(actor), _) => limiter.admit(Key::Actor(actor)),
            (None, Some(address)) => limiter.admit(Key::of(address)),
            // The connection is gone.
            (None, None) => true,
        }
    }

    fn address(&self, request: &ServiceRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip();
        let lines = request.headers().get_all(FORWARDED_FOR).filter_map(|line| line.to_str().ok());
        Some(self.proxies.client(peer, lines))
    }
}

fn too_many() -> Problem {
    let detail = "Too many requests of this caller; try again in a second";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(RETRY_AFTER, "1")
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let (status, detail, challenge) = match denied {
            Denied::NoToken => (
                StatusCode::UNAUTHORIZED,
                "This needs a token: Authorization: Bearer TOKEN",
                r#"Bearer realm="task-api""#,
            ),
            Denied::Malformed => (
                StatusCode::BAD_REQUEST,
                "The Authorization header must be given once, as Bearer TOKEN",
                r#"Bearer realm="task-api", error="invalid_request""#,
            ),
            Denied::NoKeys => {
                let detail = "The keys of the token's issuer are not known yet; try again in some seconds";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(RETRY_AFTER, "5");
            }
            // The token may be good: to refuse it would have its caller throw it away.
            Denied::UnknownKey => {
                let detail = "The key of the token is not known yet; try again in some seconds";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(RETRY_AFTER, "10");
            }
            Denied::Unknown => (
                StatusCode::UNAUTHORIZED,
                "The token is not known, or is not valid any longer",
                r#"Bearer realm="task-api", error="invalid_token""#,
            ),
            Denied::Scope(Scope::Read) => (
                StatusCode::FORBIDDEN,
                "The token has not the scope read",
                r#"Bearer realm="task-api", error="insufficient_scope", scope="read""#,
            ),
            Denied::Scope(Scope::Write) => (
                StatusCode::FORBIDDEN,
                "The token has not the scope write",
                r#"Bearer realm="task-api", error="insufficient_scope", scope="write""#,
            ),
        };
        Self::new(status, detail).with_header(WWW_AUTHENTICATE, challenge)
    }
}
