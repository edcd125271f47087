//! The names of sealed segments: earlier parts of a log, each a file beside it.
//!
//! A segment's name is the log's with a time or a number behind it, as the audit service and logrotate give them:
//! `audit.log.20261125T211500.123456Z`, `audit.log.1`, `audit.log-20261125`, each also with `.gz`. Files with
//! other names (`audit.log.bak`) belong to somebody else. The service and the operator's command go by the same rule.

/// Whether a file is a segment of the log of that name.
pub fn is_segment(log: &str, name: &str) -> bool {
    let suffix = name.strip_prefix(log).and_then(|rest| rest.strip_prefix(['.', '-']));
    let is_time_or_number = |byte: u8| byte.is_ascii_digit() || b"TZ.-_:".contains(&byte);
    suffix.is_some_and(|suffix| {
        let suffix = suffix.strip_suffix(".gz").unwrap_or(suffix);
        suffix.starts_with(|first: char| first.is_ascii_digit()) && suffix.bytes().all(is_time_or_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rotated_is_a_segment_and_nothing_else() {
        for name in [
            "audit.log.1",
            "audit.log.12",
            "audit.log-20261125",
            "audit.log-2026-11-25_10:00",
            "audit.log.1.2",
        ] {
            assert!(is_segment("audit.log", name), "{name}");
            assert!(is_segment("audit.log", &format!("{name}.gz")), "{name}");
        }
        let others = [
            "audit.log",
            "audit.log.bak",
            "audit.log.old",
            "audit.log.torn-20261125T211500.123456Z",
            "audit.log.1~",
            "audit.logs.1",
            "audit.log.",
            "audit.log.gz",
            "other.log.1",
            "audit.log.T1",
            "audit.log.1.zst",
        ];
        for name in others {
            assert!(!is_segment("audit.log", name), "{name}");
        }
    }
}
