//! What the HTTP layer answers without the application: given a body, as every other error has one.
//!
//! actix writes such an answer as a head of a known form, of length 0, and closes the connection. The application
//! never answers an error without a body, so nothing else has that form.

use actix_web::http::StatusCode;
use uuid::Uuid;

use super::problem::Problem;

/// The answers, and what they are given for.
const ANSWERS: [(StatusCode, &str); 3] = [
    (
        StatusCode::BAD_REQUEST,
        "The request is not HTTP/1.1: its first line or a header is malformed, or its target is longer than 65,534 bytes",
    ),
    (StatusCode::REQUEST_TIMEOUT, "The head of the request did not arrive in time"),
    (
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The head of the request is too large or has too many headers",
    ),
];

/// The answer with a body, if these bytes are one without, and nothing else.
pub(super) fn with_body(bytes: &[u8]) -> Option<Vec<u8>> {
    // Cheap for all others: those have another status.
    let rest = bytes.strip_prefix(b"HTTP/1.1 4").or(bytes.strip_prefix(b"HTTP/1.0 4"))?;
    if !rest.ends_with(b"\r\n\r\n") || rest.len() > 200 {
        return None;
    }
    let head = std::str::from_utf8(bytes).ok()?;
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next()?;
    let (status, detail) =
        ANSWERS.into_iter().find(|(status, _)| status_line.get(9..12) == Some(status.as_str()))?;
    let headers: Vec<&str> = lines.filter(|line| *line != "content-length: 0").collect();
    if headers.len() + 2 != head.trim_end().split("\r\n").count() || headers.contains(&"") {
        return None;
    }
    let body = Problem::new(status, detail).body("");
    let answer = format!(
        "{status_line}\r\ncontent-length: {}\r\ncontent-type: application/problem+json\r\nx-content-type-options: nosniff\r\nx-correlation-id: {}\r\n{}\r\n\r\n",
        body.len(),
        Uuid::new_v4(),
        headers.join("\r\n")
    );
    Some([answer.into_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_without_body_gets_one() {
        let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: Wed, 25 Nov 2026 22:14:40 GMT\r\n\r\n";
        let answer = String::from_utf8(with_body(bare).unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400 Bad Request\r\n") && head.contains("\r\nconnection: close\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("\r\ncontent-length: {}\r\n", body.len()))
                && head.contains("x-correlation-id: ")
                && head.contains("\r\nx-content-type-options: nosniff\r\n")
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 400);
        for other in [
            &b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            b"",
        ] {
            assert_eq!(with_body(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
