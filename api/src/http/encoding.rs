//! Compressed answers: gzip, for callers that accept it, where it pays (lists, documents, pages).
//!
//! # Invariants
//!
//! 1. What may be compressed says `Vary: Accept-Encoding` in either form, so that a cache mixes up no two forms.
//! 2. Each form has an entity tag of its own: they are other bytes.
//! 3. *BREACH.* The length of a compressed answer tells who reads the wire what in it repeats. Nothing that is
//!    compressed holds a secret (there are no cookies, tokens or other people's credentials in any answer), and
//!    answers about a single task are not compressed.

use std::io::Write;

use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, REFERRER_POLICY, VARY,
};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use task_events::escape::hex;

use super::conditional;

/// What is smaller fits into one packet as it is.
pub(super) const MIN_COMPRESSED_BYTES: usize = 1_024;

/// Whether the caller takes gzip, and not less gladly than no encoding (RFC 9110, section 12.5.3).
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).filter_map(|line| line.to_str().ok());
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for element in lines.flat_map(|line| line.split(',')) {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse::<f32>().ok());
        let slot = match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut any,
            _ => continue,
        };
        *slot = weight.filter(|weight| (0.0..=1.0).contains(weight));
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The bytes, compressed; `None` where memory does not take them.
pub(super) fn gzip(bytes: &[u8], level: Compression) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), level);
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Says that the answer is compressed.
pub(super) fn is_gzip(response: &mut HttpResponseBuilder) {
    response.insert_header((CONTENT_ENCODING, "gzip"));
}

/// Says that the answer could have had another form.
pub(super) fn varies(response: &mut HttpResponseBuilder) {
    response.append_header((VARY, "accept-encoding"));
}

/// A document or a page of the program, which never changes while it runs.
pub(super) struct Asset {
    media_type: &'static str,
    content_policy: Option<&'static str>,
    plain: &'static [u8],
    gzip: Option<Vec<u8>>,
    /// The entity tag without quotes.
    tag: String,
}

impl Asset {
    pub(super) fn new(media_type: &'static str, text: &'static str) -> Self {
        let plain = text.as_bytes();
        let hash = Sha256::digest(plain);
        let tag = hex(hash.iter().take(8));
        Self { media_type, content_policy: None, plain, gzip: gzip(plain, Compression::best()), tag }
    }

    /// A page, and what a browser lets it do.
    pub(super) fn page(text: &'static str, content_policy: &'static str) -> Self {
        Self { content_policy: Some(content_policy), ..Self::new("text/html; charset=utf-8", text) }
    }

    /// The answer: in the form that the caller takes, or 304 where it has that already.
    pub(super) fn respond(&self, request: &HttpRequest) -> HttpResponse {
        let compressed = self.gzip.as_ref().filter(|_| accepts_gzip(request.headers()));
        let tag = if compressed.is_some() { format!("{}-gzip", self.tag) } else { self.tag.clone() };
        let is_known = conditional::names_tag(request.headers(), &tag);
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        varies(&mut response);
        response.insert_header((ETAG, format!("\"{tag}\"")));
        // Kept, and asked for again each time: another version of the program has another one.
        response.insert_header((CACHE_CONTROL, "no-cache"));
        if let Some(policy) = self.content_policy {
            response.insert_header((REFERRER_POLICY, "no-referrer"));
            response.insert_header(("cross-origin-opener-policy", "same-origin"));
            response.insert_header(("content-security-policy", policy));
        }
        if is_known {
            return response.finish();
        }
        response.insert_header((CONTENT_TYPE, self.media_type));
        match compressed {
            Some(compressed) => {
                is_gzip(&mut response);
                response.body(compressed.clone())
            }
            None => response.body(self.plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_sent_only_to_those_who_take_it() {
        let accepts = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
            }
            accepts_gzip(&headers)
        };
        for yes in [
            "gzip",
            "GZIP",
            "x-gzip",
            "*",
            "br, gzip;q=0.5",
            "gzip;q=0.001",
            "identity;q=0.5, gzip",
            "gzip;Q=1",
        ] {
            assert!(accepts(&[yes]), "{yes}");
        }
        assert!(accepts(&["br", "deflate, gzip"]));
        for no in [
            "",
            "identity",
            "br",
            "gzip;q=0",
            "gzip;q=0, *",
            "*;q=0",
            "gzip;q=0.5, identity",
            "gzip;q=2",
            "gzip;q=x",
            "gzipped",
        ] {
            assert!(!accepts(&[no]), "{no}");
        }
        assert!(!accepts(&[]));
    }
}
