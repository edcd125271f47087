//! The contract for programs: the API as OpenAPI, the events as AsyncAPI and as a JSON Schema.
//!
//! Written by hand; tests hold them against the routes, the handlers' types and what the services write.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};

use super::encoding::Asset;

/// OpenAPI 3.1.
static OPENAPI: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("application/json", include_str!("contract/openapi.json")));
/// AsyncAPI 3.0.
static ASYNCAPI: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("application/json", include_str!("contract/asyncapi.json")));
/// JSON Schema 2020-12.
static TASK_EVENT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("application/schema+json", include_str!("contract/task-event.json")));

pub(super) async fn openapi(request: HttpRequest) -> HttpResponse {
    OPENAPI.respond(&request)
}

pub(super) async fn asyncapi(request: HttpRequest) -> HttpResponse {
    ASYNCAPI.respond(&request)
}

pub(super) async fn task_event(request: HttpRequest) -> HttpResponse {
    TASK_EVENT.respond(&request)
}
