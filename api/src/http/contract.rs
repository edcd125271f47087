//! The contract for programs: the description of the API.

use actix_web::HttpResponse;

/// OpenAPI 3.1. Written by hand; a test holds it against the routes.
const OPENAPI: &str = include_str!("contract/openapi.json");

pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}
