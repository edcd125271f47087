//! The names of sealed segments: earlier parts of a log, each a file beside it.
//!
//! The audit service seals `audit.log` as `audit-00000000000000001200.log`: 1,200 events are in the segments before
//! it. Logrotate, and versions before 0.2, put a number or a time behind the log's name: `audit.log.1`,
//! `audit.log-20261125`, `audit.log.20261125T211500.123456Z`. Each may be compressed, with `.gz` behind its name.
//! Files with other names (`audit.log.bak`) belong to somebody else. The service and the operator's command go by the
//! same rule. The order of segments is that of their first lines, not of their names.

use std::path::{Path, PathBuf};

/// Digits of a number in a sealed segment's name: as many as the largest number has, so that names sort.
const DIGITS: usize = 20;

/// The name under which a log is sealed that begins with event number `first` (the first of all is 0).
pub fn sealed_path(log: &Path, first: u64) -> PathBuf {
    let mut name = log.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{first:0DIGITS$}"));
    if let Some(extension) = log.extension() {
        name.push(".");
        name.push(extension);
    }
    log.with_file_name(name)
}

/// Whether a file is a segment of the log of that name.
pub fn is_segment(log: &str, name: &str) -> bool {
    is_sealed(log, name) || is_rotated(log, name)
}

/// Whether the name is one of [`sealed_path`].
fn is_sealed(log: &str, name: &str) -> bool {
    let path = Path::new(log);
    let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { return false };
    let Some(extension) = log.strip_prefix(stem) else { return false };
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let number = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    let number = number.and_then(|rest| rest.strip_suffix(extension));
    number.is_some_and(|number| number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the name is the log's with a number or a time behind it.
fn is_rotated(log: &str, name: &str) -> bool {
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
    fn what_is_sealed_is_a_segment_and_sorts_by_its_first_event() {
        for (log, sealed) in [
            ("audit.log", "audit-00000000000000001200.log"),
            ("audit", "audit-00000000000000001200"),
            ("a.b.jsonl", "a.b-00000000000000001200.jsonl"),
        ] {
            let path = sealed_path(&Path::new("/var/log").join(log), 1_200);
            assert_eq!(path, Path::new("/var/log").join(sealed));
            assert!(is_segment(log, sealed) && is_segment(log, &format!("{sealed}.gz")), "{log}");
            assert!(sealed_path(Path::new(log), 999) < sealed_path(Path::new(log), u64::MAX), "{log}");
            assert!(!is_segment(sealed, log) && !is_segment(log, log), "{log}");
        }
    }

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
            "audit-20261125.log",
            "audit-000000000000000012000.log",
            "audit-0000000000000000120x.log",
            "audit-00000000000000001200.log.bak",
            "audit-00000000000000001200",
            "other-00000000000000001200.log",
        ];
        for name in others {
            assert!(!is_segment("audit.log", name), "{name}");
        }
    }
}
