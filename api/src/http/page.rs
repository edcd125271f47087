//! `GET /`: the live page for people, and a short index for programs.
//!
//! The page is one document with its style and script in it, and nothing else is loaded. Its policy names both by their
//! hashes, so that nothing which finds its way into the document is run.

use std::sync::LazyLock;

use actix_web::http::header::{ACCEPT, HeaderMap, HeaderValue, VARY};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::encoding::Asset;

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script, in parts: each uses what is before it.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/core.js"),
    include_str!("page/token.js"),
    include_str!("page/stream.js"),
    include_str!("page/chart.js"),
    include_str!("page/tasks.js"),
    include_str!("page/operate.js"),
    include_str!("page/live.js"),
);

static HTML: LazyLock<String> =
    LazyLock::new(|| DOCUMENT.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT));

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

static PAGE: LazyLock<Asset> = LazyLock::new(|| Asset::page(&HTML, &POLICY));

pub(super) async fn index(request: HttpRequest) -> HttpResponse {
    if prefers_json(request.headers()) {
        return HttpResponse::Ok().insert_header((VARY, "accept")).json(serde_json::json!({
            "name": "task-api",
            "tasks": "/tasks",
            "openapi": "/openapi.json",
            "docs": "/docs",
            "health": "/healthz",
            "readiness": "/readyz",
            "metrics": "/metrics",
        }));
    }
    let mut response = PAGE.respond(&request);
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Whether the caller wants JSON more than a page. Programs that accept anything after JSON name JSON; those
/// that accept just anything get the page, as browsers do.
fn prefers_json(headers: &HeaderMap) -> bool {
    let lines: Vec<&str> = headers.get_all(ACCEPT).filter_map(|line| line.to_str().ok()).collect();
    let accept = lines.join(",");
    let (json, html) = (quality(&accept, "application", "json"), quality(&accept, "text", "html"));
    json.0 > 0 && json > html
}

/// How much a type is wanted, in thousandths, and how closely it is named: by the range that names it most
/// closely (RFC 9110, section 12.5.1).
fn quality(accept: &str, main: &str, sub: &str) -> (u32, u32) {
    let mut best = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_main, range_sub)) = parts.next().and_then(|range| range.split_once('/')) else {
            continue;
        };
        let closeness = match (range_main, range_sub) {
            ("*", "*") => 1,
            (named, "*") if named.eq_ignore_ascii_case(main) => 2,
            (named, also) if named.eq_ignore_ascii_case(main) && also.eq_ignore_ascii_case(sub) => 3,
            _ => continue,
        };
        let q = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
        let q = q.map_or(Some(1.0), |q| q.trim().parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q));
        if let Some(q) = q.filter(|_| closeness > best.1) {
            // Between 0 and 1,000.
            best = ((q * 1_000.0) as u32, closeness);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_names_json_gets_json_and_a_browser_the_page() {
        let wants_json = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            prefers_json(&headers)
        };
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/*",
            "application/json, text/plain, */*",
            "text/html;q=0.5, application/json",
            "text/html;q=0, */*",
        ] {
            assert!(wants_json(json), "{json}");
        }
        for html in [
            "",
            "*/*",
            "text/html",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html, application/json",
            "application/json;q=0.5, text/html",
            "application/json;q=0",
            "application/json;q=x",
            "image/png",
            "nonsense",
        ] {
            assert!(!wants_json(html), "{html}");
        }
        assert!(!prefers_json(&HeaderMap::new()));
    }
}
