//! `GET /docs`: the documentation page.

use actix_web::HttpResponse;

use super::CONTENT_POLICY;

/// Reads the description, and lets one send each call. All of it in one file: no outside asset.
const PAGE: &str = include_str!("docs/docs.html");

pub(super) async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", CONTENT_POLICY))
        .body(PAGE)
}
