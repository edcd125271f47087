//! Entity tags: a task's version, so that a caller changes only what it has seen (RFC 9110, section 13).

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, IF_MATCH, IF_NONE_MATCH};

use super::problem::Problem;
use crate::store::IfMatch;

pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The versions that `If-Match` allows; `None` without the header. A tag that we never gave matches nothing.
pub(super) fn if_match(headers: &HeaderMap) -> Option<IfMatch> {
    let mut values = headers.get_all(IF_MATCH).peekable();
    values.peek()?;
    let tags: Vec<&str> =
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    if tags.iter().any(|tag| tag.trim() == "*") {
        return Some(IfMatch::Any);
    }
    // A weak tag never matches: If-Match compares strongly.
    Some(IfMatch::Versions(tags.into_iter().filter_map(version).collect()))
}

/// Whether `If-None-Match` says that the caller has this version already.
pub(super) fn has_it_already(headers: &HeaderMap, current: u64) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || version(tag.strip_prefix("W/").unwrap_or(tag)) == Some(current)
    })
}

fn version(tag: &str) -> Option<u64> {
    let version = tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    // A tag is compared by its characters: "+1" and "01" are none that we gave.
    Some(version).filter(|version| etag(*version) == tag.trim())
}

pub(super) fn stale(current: u64) -> Problem {
    let detail = format!("The task has version {current}, which is none of those in If-Match");
    Problem::new(StatusCode::PRECONDITION_FAILED, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_str(value).unwrap());
        headers.insert(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn tags_are_read_as_rfc_9110_says() {
        assert_eq!(if_match(&HeaderMap::new()), None);
        assert_eq!(if_match(&headers("*")), Some(IfMatch::Any));
        assert_eq!(if_match(&headers("\"1\", \"3\"")), Some(IfMatch::Versions(vec![1, 3])));
        assert_eq!(if_match(&headers("W/\"1\"")), Some(IfMatch::Versions(vec![])));
        assert_eq!(if_match(&headers("1")), Some(IfMatch::Versions(vec![])));
        assert!(has_it_already(&headers("W/\"7\""), 7) && has_it_already(&headers("*"), 7));
        assert!(!has_it_already(&headers("\"6\""), 7));
        for never_given in ["\"+1\"", "\"01\"", "\" 1\"", "'1'"] {
            assert_eq!(if_match(&headers(never_given)), Some(IfMatch::Versions(vec![])), "{never_given}");
        }
    }
}
