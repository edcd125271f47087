//! What a request must say before anything else of it is looked at: to whom it is, from which page, and how
//! its body is encoded.
//!
//! # Invariants
//!
//! 1. *DNS rebinding.* Bound to a loopback address, the server answers only what was addressed to a loopback
//!    name or address, or to a name in ALLOWED_HOSTS: a web page whose own name was rebound to 127.0.0.1
//!    cannot read anything.
//! 2. *CSRF.* A browser sends a cross-origin form or `text/plain` body without asking, but not
//!    `application/json`, and names its origin. So a body from another origin must be JSON.
//! 3. *No body is taken for another one.* A compressed body is refused, not parsed.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN,
    TRANSFER_ENCODING,
};
use actix_web::http::{StatusCode, Version};

use super::authority::{Authority, Host};
use super::problem::Problem;

/// Names of this server in ALLOWED_HOSTS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Host>);

impl AllowedHosts {
    /// Names and addresses without port, separated by commas; for `clap`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hosts = text.split(',').map(str::trim).filter(|host| !host.is_empty());
        let parse = |host: &str| {
            let wrong = || format!("'{host}' is not a host name or address without port; IPv6 in brackets");
            Host::parse(host).ok_or_else(wrong)
        };
        Ok(Self(hosts.map(parse).collect::<Result<_, _>>()?))
    }
}

/// To whom a request may be addressed.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    bound_to_loopback: bool,
    allowed: Vec<Host>,
}

impl Hosts {
    pub(super) fn new(bound: IpAddr, AllowedHosts(allowed): AllowedHosts) -> Self {
        Self { bound_to_loopback: bound.to_canonical().is_loopback(), allowed }
    }

    fn are_all_answered(&self) -> bool {
        !self.bound_to_loopback && self.allowed.is_empty()
    }

    fn answer(&self, host: &Host) -> bool {
        // An address cannot be rebound; probes and scrapers call a pod by its address.
        let is_address = matches!(host, Host::Address(_)) && !self.bound_to_loopback;
        self.are_all_answered() || host.is_loopback() || is_address || self.allowed.contains(host)
    }

    /// 421 with what to do about it.
    fn misdirected(&self, host: &str) -> Problem {
        let answered = if self.bound_to_loopback {
            "It listens on a loopback address and answers only to loopback names, loopback addresses and ALLOWED_HOSTS"
        } else {
            "It answers only to addresses, loopback names and ALLOWED_HOSTS"
        };
        let detail = format!("This server is not {host}. {answered}");
        Problem::new(StatusCode::MISDIRECTED_REQUEST, detail)
    }
}

/// Refuses what must not come to a handler.
pub(super) fn check(request: &ServiceRequest, hosts: &Hosts) -> Result<(), Problem> {
    let own = addressed_to(request, hosts)?;
    let headers = request.headers();
    if has_body(headers) {
        refuse_encoded(headers)?;
        if !is_from_own_origin(headers, own.as_ref()) && !is_json(headers) {
            let detail =
                "A request with a body from another origin must have the content type application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    }
    Ok(())
}

/// Refuses what is not JSON, and what comes from a page of another origin, whatever its form: for what no other
/// site's page has a reason to send.
pub(super) fn own_json(request: &HttpRequest) -> Result<(), Problem> {
    let headers = request.headers();
    if !is_json(headers) {
        let detail = "The content type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let own = headers.get(HOST).and_then(|host| Authority::parse(host.to_str().ok()?));
    if !is_from_own_origin(headers, own.as_ref()) {
        let detail = "Only a page of this server may send this";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// To whom the request is addressed; `None` where it does not say, as HTTP/1.0 may.
fn addressed_to(request: &ServiceRequest, hosts: &Hosts) -> Result<Option<Authority>, Problem> {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let mut given = request.headers().get_all(HOST);
    let header = match (given.next(), given.next()) {
        (Some(_), Some(_)) => return Err(bad("The Host header must be given once")),
        (Some(value), None) => Some(value.to_str().map_err(|_| bad("The Host header must be ASCII"))?),
        (None, _) if request.version() == Version::HTTP_10 && hosts.are_all_answered() => None,
        (None, _) => return Err(bad("The Host header is missing")),
    };
    // The target's authority counts, where it has one; the header must be right all the same.
    let target = request.uri().authority().map(|authority| authority.as_str());
    let mut own = None;
    for text in [header, target].into_iter().flatten() {
        let wrong = || bad("The request must be addressed to a host name or address with or without a port");
        let authority = Authority::parse(text).ok_or_else(wrong)?;
        if !hosts.answer(&authority.host) {
            return Err(hosts.misdirected(text));
        }
        own = Some(authority);
    }
    Ok(own)
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length.trim() != "0")
}

/// All elements of a header that is a list, over all its lines.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).map(|value| value.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn refuse_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    match elements(headers, CONTENT_ENCODING).find(|coding| !coding.eq_ignore_ascii_case("identity")) {
        None => Ok(()),
        Some(coding) => {
            let detail = format!("A body with the content encoding {coding} is not read; send it as it is");
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
            Err(problem.with_header(ACCEPT_ENCODING, "identity"))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).peekable();
    types.peek().is_some()
        && types.all(|value| {
            let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case("application/json")
        })
}

/// Whether no web page sent it, or a page of this server. The scheme is not compared: a proxy may have
/// terminated TLS. One that rewrites Host hides the server's name; then the browser's own word counts, which
/// no page can forge.
fn is_from_own_origin(headers: &HeaderMap, own: Option<&Authority>) -> bool {
    let mut origins = headers.get_all(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()).peekable();
    if origins.peek().is_none() || headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") {
        return true;
    }
    let is_own = |origin: &str| {
        let (scheme, authority) = origin.split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (origin, own) = (Authority::parse(authority)?, own?);
        Some(origin.host == own.host && origin.port.unwrap_or(default) == own.port.unwrap_or(default))
    };
    origins.all(|origin| is_own(origin) == Some(true))
}
