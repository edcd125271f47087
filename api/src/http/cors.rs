//! Which web pages of other origins may call the API (CORS). None may, unless it is configured.
//!
//! # Invariants
//!
//! 1. *An origin is named exactly*: scheme, host and port. There is no pattern, and `*` and `null` are refused.
//! 2. *No credentials of the browser*: `Access-Control-Allow-Credentials` is never sent. A page sends its token itself.
//! 3. *The live page's interface stays its own*: `/live` is allowed to no other origin.
//! 4. The CSRF rule of [`super::guard`] holds all the same.

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

use super::authority::Authority;

/// Methods that a page may use.
const METHODS: HeaderValue = HeaderValue::from_static("DELETE, GET, HEAD, PATCH, POST");
/// Headers that a page may send.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, traceparent, x-correlation-id",
);
/// Headers that a page may read.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Idempotent-Replayed, Link, Location, Retry-After, WWW-Authenticate, X-Correlation-ID",
);
/// Seconds for which a browser keeps the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Origins in CORS_ALLOWED_ORIGINS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<HeaderValue>);

impl AllowedOrigins {
    /// Origins as browsers send them, separated by commas; for `clap`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        let parse = |origin: &str| {
            let wrong = || format!("'{origin}' is not an origin such as https://app.example.org");
            let (scheme, authority) = origin.split_once("://").ok_or_else(wrong)?;
            let is_one = matches!(scheme, "http" | "https")
                && Authority::parse(authority).is_some()
                // As a browser sends it: else it never matches.
                && !origin.contains(|c: char| c.is_ascii_uppercase() || "/@?#*".contains(c) && c != '/')
                && !authority.contains('/')
                && !authority.ends_with(if scheme == "http" { ":80" } else { ":443" });
            if !is_one {
                return Err(wrong());
            }
            HeaderValue::from_str(origin).map_err(|_| wrong())
        };
        Ok(Self(origins.map(parse).collect::<Result<_, _>>()?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The origin of the page that sent the request, if that may call.
    pub(super) fn of(&self, request: &ServiceRequest) -> Option<HeaderValue> {
        let mut given = request.headers().get_all(ORIGIN);
        let origin = given.next().filter(|_| given.next().is_none())?;
        let is_allowed = self.0.contains(origin) && !request.path().starts_with("/live");
        is_allowed.then(|| origin.clone())
    }
}

/// Whether a browser asks for what a page may do.
pub(super) fn is_preflight(request: &ServiceRequest) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page may do.
pub(super) fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
        .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
        .finish()
}

/// Says in an answer that the page may read it. To any other origin, that the answer would be another.
pub(super) fn mark(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_named_as_a_browser_sends_it() {
        for good in ["https://app.example.org", "http://localhost:3000", "https://[::1]:8443", ""] {
            assert_eq!(AllowedOrigins::parse(good).unwrap().is_empty(), good.is_empty(), "{good}");
        }
        assert_eq!(AllowedOrigins::parse("https://a, https://b").unwrap().0.len(), 2);
        for bad in [
            "*",
            "null",
            "app.example.org",
            "https://*.example.org",
            "https://app.example.org/",
            "https://App.example.org",
            "https://app.example.org:443",
            "http://app.example.org:80",
            "https://user@app.example.org",
            "https://",
            "ftp://app.example.org",
        ] {
            assert!(AllowedOrigins::parse(bad).is_err(), "{bad}");
        }
    }
}
