//! The description of the API, and a page to try it.

use actix_web::HttpResponse;

/// OpenAPI 3.1. Written by hand; a test holds it against the routes.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT)
}

/// Reads the description, and lets one send each call. All of it in one file: no outside asset.
const PAGE: &str = include_str!("docs.html");

pub(super) async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", CONTENT_POLICY))
        .body(PAGE)
}

/// A page's own script and style, and calls of this server.
pub(super) const CONTENT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
