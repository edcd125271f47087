//! Times as task-events writes them: RFC 3339 in UTC, with microseconds and `Z`.
//!
//! Each request and each event has several, so they are formatted without an allocation, some ten times as fast
//! as by chrono's formatter.

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::Serializer;

/// `2026-01-15T10:30:00.000000Z`
const LENGTH: usize = 27;
/// A leap second has as many nanoseconds as this and more.
const SECOND_NS: u32 = 1_000_000_000;

/// RFC 3339 with microseconds and `Z`, the form of every time that task-events writes.
pub fn format_time(time: DateTime<Utc>) -> String {
    Rfc3339::new(time).as_str().to_owned()
}

/// Serialises a time in the form of [`format_time`].
pub fn serialize_time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Rfc3339::new(*time).as_str())
}

/// A time as text.
#[derive(Debug, Clone)]
pub struct Rfc3339(Text);

#[derive(Debug, Clone)]
enum Text {
    Usual([u8; LENGTH]),
    /// A year of other than four digits, or a leap second.
    Other(String),
}

impl Rfc3339 {
    /// The time as text.
    pub fn new(time: DateTime<Utc>) -> Self {
        let (date, time_of_day) = (time.date_naive(), time.time());
        let nanos = time_of_day.nanosecond();
        let year = match u32::try_from(date.year()) {
            Ok(year) if year <= 9_999 && nanos < SECOND_NS => year,
            _ => return Self(Text::Other(time.to_rfc3339_opts(SecondsFormat::Micros, true))),
        };
        let micros = nanos / 1_000;
        let ([y1, y2], [y3, y4]) = (digits(year / 100), digits(year % 100));
        let ([m1, m2], [d1, d2]) = (digits(date.month()), digits(date.day()));
        let ([h1, h2], [i1, i2]) = (digits(time_of_day.hour()), digits(time_of_day.minute()));
        let [s1, s2] = digits(time_of_day.second());
        let ([u1, u2], [u3, u4]) = (digits(micros / 10_000), digits(micros / 100 % 100));
        let [u5, u6] = digits(micros % 100);
        Self(Text::Usual([
            y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'.', u1,
            u2, u3, u4, u5, u6, b'Z',
        ]))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // ASCII.
            Text::Usual(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Text::Other(text) => text,
        }
    }
}

/// The two digits of a number below 100.
fn digits(number: u32) -> [u8; 2] {
    // Below 10 each.
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_as_chrono_writes_it(time: DateTime<Utc>) -> bool {
        Rfc3339::new(time).as_str() == time.to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    #[test]
    fn odd_times_are_written_as_chrono_writes_them() {
        for (seconds, nanos) in [
            (0, 0),
            (951_782_400, 999_999_999),     // 29 February
            (1_483_228_799, 1_500_000_000), // a leap second
            (253_402_300_799, 999_999_999), // the end of the year 9999
            (253_402_300_800, 0),           // after it
            (-62_167_219_200, 0),           // the year 0
            (-62_167_219_201, 0),           // before it
        ] {
            let time = DateTime::from_timestamp(seconds, nanos).unwrap();
            assert!(is_as_chrono_writes_it(time), "{time:?}");
        }
        let time = DateTime::from_timestamp(1_768_473_000, 1_999).unwrap();
        assert_eq!(Rfc3339::new(time).as_str(), "2026-01-15T10:30:00.000001Z");
    }

    proptest! {
        #[test]
        fn any_time_is_written_as_chrono_writes_it(
            seconds in -70_000_000_000_i64..300_000_000_000,
            nanos in 0..1_000_000_000_u32,
        ) {
            prop_assert!(is_as_chrono_writes_it(DateTime::from_timestamp(seconds, nanos).unwrap()));
        }
    }
}
