//! The description of the API.

use actix_web::HttpResponse;

/// OpenAPI 3.1. Written by hand; a test holds it against the routes.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT)
}
