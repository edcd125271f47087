//! `GET /docs`: the documentation page.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};

use super::CONTENT_POLICY;
use super::encoding::Asset;

/// Reads the description, and lets one send each call. All of it in one file: no outside asset.
static PAGE: LazyLock<Asset> = LazyLock::new(|| Asset::page(include_str!("docs/docs.html"), CONTENT_POLICY));

pub(super) async fn page(request: HttpRequest) -> HttpResponse {
    PAGE.respond(&request)
}
