//! Entity tags: a task's version, so that a caller changes only what it has seen (RFC 9110, section 13).
//!
//! | request | `If-Match` | `If-None-Match` |
//! | --- | --- | --- |
//! | reads of a task | 412 unless the version is named | 304 if it is |
//! | changes of a task | 412 unless the version is named | 412 if it is |
//! | `POST /tasks`: the list exists, and has no entity tag | 412 unless it is `*` | 412 if it is `*` |
//!
//! They count only where the answer without them would be 2xx: a missing task is 404 whatever they say.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::problem::Problem;
use crate::store::{Preconditions, VersionSet};

pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The versions that `If-Match` allows; `None` without the header. A tag that we never gave matches nothing;
/// what is no tag at all is 400, since its sender means something else than it says.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<VersionSet>, Problem> {
    let Some(list) = list(headers, IF_MATCH) else { return Ok(None) };
    match list.as_deref().and_then(Tags::parse) {
        Some(Tags::Any) => Ok(Some(VersionSet::Any)),
        // A weak tag never matches: If-Match compares strongly.
        Some(Tags::List(tags)) => Ok(Some(versions(tags.iter().filter(|tag| !tag.is_weak)))),
        None => Err(no_tags("If-Match")),
    }
}

/// Under which conditions a task is changed. What is no tag is 400 in either header.
pub(super) fn preconditions(headers: &HeaderMap) -> Result<Preconditions, Problem> {
    let if_none_match = match list(headers, IF_NONE_MATCH) {
        None => None,
        Some(list) => match list.as_deref().and_then(Tags::parse) {
            Some(Tags::Any) => Some(VersionSet::Any),
            Some(Tags::List(tags)) => Some(versions(tags.iter())),
            None => return Err(no_tags("If-None-Match")),
        },
    };
    Ok(Preconditions { if_match: if_match(headers)?, if_none_match })
}

/// The conditions of a creation, whose target is the list: it exists, and has no entity tag.
pub(super) fn of_collection(preconditions: &Preconditions) -> Result<(), Problem> {
    let Preconditions { if_match, if_none_match } = preconditions;
    let detail = match (if_match, if_none_match) {
        (Some(VersionSet::Versions(_)), _) => "The list of tasks has no ETag that If-Match could name",
        (_, Some(VersionSet::Any)) => {
            "The list of tasks exists, and If-None-Match says that it must not; to create a task once, use Idempotency-Key"
        }
        _ => return Ok(()),
    };
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
}

fn no_tags(header: &str) -> Problem {
    let detail = format!(
        "{header} must be the ETag of the task with its double quotes, as in: {header}: \"1\" (or several with commas, or *)"
    );
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn versions<'h>(tags: impl Iterator<Item = &'h Tag<'h>>) -> VersionSet {
    VersionSet::Versions(tags.filter_map(|tag| version(tag.opaque)).collect())
}

/// Whether `If-None-Match` says that the caller has this version already. What is no list of tags does not.
pub(super) fn has_it_already(headers: &HeaderMap, current: u64) -> bool {
    names_tag(headers, &current.to_string())
}

/// Whether `If-None-Match` names this tag, or any.
pub(super) fn names_tag(headers: &HeaderMap, own: &str) -> bool {
    match list(headers, IF_NONE_MATCH).flatten().as_deref().and_then(Tags::parse) {
        Some(Tags::Any) => true,
        Some(Tags::List(tags)) => tags.iter().any(|tag| tag.opaque == own),
        None => false,
    }
}

/// What is answered where the current version is one of those that are excluded.
pub(super) fn excluded(current: u64) -> Problem {
    let detail = format!("The task has version {current}, which If-None-Match excludes");
    Problem::new(StatusCode::PRECONDITION_FAILED, detail)
}

/// What is answered where the current version is none of those that are asked for.
pub(super) fn stale(current: u64) -> Problem {
    let detail = format!("The task has version {current}, which is none of those in If-Match");
    Problem::new(StatusCode::PRECONDITION_FAILED, detail)
}

/// All lines of the header as one list; the inner `None` where it is not ASCII.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<Option<String>> {
    let lines: Vec<_> = headers.get_all(name).map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.into_iter().collect::<Option<Vec<_>>>().map(|lines| lines.join(",")))
}

enum Tags<'h> {
    Any,
    List(Vec<Tag<'h>>),
}

struct Tag<'h> {
    is_weak: bool,
    opaque: &'h str,
}

impl<'h> Tags<'h> {
    /// `*`, or at least one entity tag.
    fn parse(text: &'h str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        let (mut tags, mut rest) = (Vec::new(), text);
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return (!tags.is_empty()).then_some(Self::List(tags));
            }
            let (is_weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
            let after = after.trim_start_matches([' ', '\t']);
            if opaque.contains([' ', '\t']) || !(after.is_empty() || after.starts_with(',')) {
                return None;
            }
            tags.push(Tag { is_weak, opaque });
            rest = after;
        }
    }
}

fn version(opaque: &str) -> Option<u64> {
    // A tag is compared by its characters: "+1" and "01" are none that we gave.
    opaque.parse().ok().filter(|version: &u64| version.to_string() == opaque)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, HeaderValue::from_str(line).unwrap());
            headers.append(IF_NONE_MATCH, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn tags_are_read_as_rfc_9110_says() {
        let versions = |lines: &[&str]| match if_match(&headers(lines)) {
            Ok(Some(VersionSet::Versions(versions))) => versions,
            other => panic!("{lines:?}: {other:?}"),
        };
        assert_eq!(if_match(&HeaderMap::new()), Ok(None));
        assert_eq!(if_match(&headers(&[" * "])), Ok(Some(VersionSet::Any)));
        assert_eq!(versions(&["\"1\", \"3\""]), [1, 3]);
        assert_eq!(versions(&["\"1\"", ",\"3\" ,, W/\"4\","]), [1, 3]);
        for never_given in [
            "W/\"1\"",
            "\"+1\"",
            "\"01\"",
            "\"\"",
            "\"x\"",
            "\"a,b\"",
            "\"1-gzip\"",
            "\"18446744073709551616\"",
        ] {
            assert!(versions(&[never_given]).is_empty(), "{never_given}");
        }
        assert!(has_it_already(&headers(&["W/\"7\""]), 7) && has_it_already(&headers(&["*"]), 7));
        assert!(has_it_already(&headers(&["\"6\"", "W/\"5\", \"7\""]), 7));
        assert!(!has_it_already(&headers(&["\"6\""]), 7) && !has_it_already(&headers(&["7"]), 7));
    }

    #[test]
    fn what_is_no_tag_is_refused_with_an_example() {
        for wrong in [
            "1",
            "'1'",
            "",
            ",",
            "\"1",
            "1\"",
            "\"1\" \"2\"",
            "\"1\"2",
            "*, \"1\"",
            "w/\"1\"",
            "W/1",
            "\" 1\"",
            "\"1\", 2",
        ] {
            let problem = if_match(&headers(&[wrong])).unwrap_err();
            assert!(
                problem.to_string().starts_with("400 ") && problem.to_string().contains("If-Match: \"1\""),
                "{wrong}"
            );
        }
    }
}
