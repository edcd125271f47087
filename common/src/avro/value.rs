//! Any Avro value as JSON, by one mapping, or passed over.
//!
//! | Avro | JSON |
//! | --- | --- |
//! | null, boolean, int, long, string | the same |
//! | float, double | a number; what JSON has no number for (NaN, infinity) as text |
//! | timestamp-millis, -micros, -nanos | RFC 3339 in UTC with microseconds, as text |
//! | date | `2026-01-15`, as text |
//! | bytes, fixed | base64, as text |
//! | enum | its symbol, as text |
//! | array; map and record | array; object |
//! | union | the value of its branch, with nothing around it |
//! | any other logical type | as what it is made of |

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Days, NaiveDate, Utc};

use super::input::{Input, Mismatch};
use super::types::{Type, Unit};
use crate::event::MAX_EVENT_BYTES;
use crate::time::Rfc3339;

/// Reads values. What it is left to read and to write is bounded over all of them.
#[derive(Debug)]
pub(super) struct Values {
    /// Items of arrays and maps, which may take no bytes at all.
    items: u64,
}

impl Values {
    pub(super) fn new() -> Self {
        Self { items: MAX_EVENT_BYTES as u64 }
    }

    /// Passes a value over.
    pub(super) fn skip(&mut self, of: &Type, input: &mut Input<'_>) -> Result<(), Mismatch> {
        match of {
            Type::Null => {}
            Type::Boolean => drop(input.boolean()?),
            Type::Int { .. } | Type::Long(_) => drop(input.long()?),
            Type::Float => drop(input.take(4, "a float")?),
            Type::Double => drop(input.take(8, "a double")?),
            Type::Bytes | Type::Text => drop(input.bytes()?),
            Type::Fixed(fixed) => drop(input.take(fixed.size, "a fixed")?),
            Type::Enum(one) => drop(symbol(&one.symbols, input)?),
            Type::Union(branches) => self.skip(branch(branches, input)?, input)?,
            Type::Record(record) => {
                for field in &record.fields {
                    self.skip(&field.of, input)?;
                }
            }
            Type::Array(items) => self.blocks(input, |this, input| this.skip(items, input))?,
            Type::Map(values) => self.blocks(input, |this, input| {
                input.bytes()?;
                this.skip(values, input)
            })?,
        }
        Ok(())
    }

    /// Appends a value as JSON.
    pub(super) fn write(
        &mut self,
        of: &Type,
        input: &mut Input<'_>,
        out: &mut String,
    ) -> Result<(), Mismatch> {
        match of {
            Type::Null => out.push_str("null"),
            Type::Boolean => out.push_str(if input.boolean()? { "true" } else { "false" }),
            Type::Int { is_date: false } => number(input.int()?, out),
            Type::Int { is_date: true } => date(input.int()?, out)?,
            Type::Long(None) => number(input.long()?, out),
            Type::Long(Some(unit)) => quoted(Rfc3339::new(time(input.long()?, *unit)?).as_str(), out),
            Type::Float => float(f64::from(f32::from_le_bytes(input.array("a float")?)), out),
            Type::Double => float(f64::from_le_bytes(input.array("a double")?), out),
            Type::Bytes => quoted(&STANDARD.encode(input.bytes()?), out),
            Type::Fixed(fixed) => quoted(&STANDARD.encode(input.take(fixed.size, "a fixed")?), out),
            Type::Text => text(input.text()?, out),
            Type::Enum(one) => text(symbol(&one.symbols, input)?, out),
            Type::Union(branches) => self.write(branch(branches, input)?, input, out)?,
            Type::Record(record) => {
                out.push('{');
                for (at, field) in record.fields.iter().enumerate() {
                    separate(at > 0, out);
                    text(&field.name, out);
                    out.push(':');
                    self.write(&field.of, input, out)?;
                }
                out.push('}');
            }
            Type::Array(items) => {
                out.push('[');
                let mut is_first = true;
                self.blocks(input, |this, input| {
                    separate(!std::mem::take(&mut is_first), out);
                    this.write(items, input, out)
                })?;
                out.push(']');
            }
            Type::Map(values) => {
                out.push('{');
                let mut is_first = true;
                self.blocks(input, |this, input| {
                    separate(!std::mem::take(&mut is_first), out);
                    text(input.text()?, out);
                    out.push(':');
                    this.write(values, input, out)
                })?;
                out.push('}');
            }
        }
        bounded(out)
    }

    fn blocks<'a>(
        &mut self,
        input: &mut Input<'a>,
        mut item: impl FnMut(&mut Self, &mut Input<'a>) -> Result<(), Mismatch>,
    ) -> Result<(), Mismatch> {
        loop {
            let count = input.block()?;
            if count == 0 {
                return Ok(());
            }
            self.items = self.items.checked_sub(count).ok_or("arrays and maps have too many items")?;
            for _ in 0..count {
                item(self, input)?;
            }
        }
    }
}

/// What is made of an event is no larger than an event may be.
pub(super) fn bounded(out: &str) -> Result<(), Mismatch> {
    if out.len() <= MAX_EVENT_BYTES {
        return Ok(());
    }
    Err(format!("as JSON it has more than {MAX_EVENT_BYTES} bytes"))
}

pub(super) fn branch<'t, T>(branches: &'t [T], input: &mut Input<'_>) -> Result<&'t T, Mismatch> {
    let index = input.index()?;
    branches.get(index).ok_or_else(|| format!("a union of {} has no branch {index}", branches.len()))
}

pub(super) fn symbol<'t, T>(symbols: &'t [T], input: &mut Input<'_>) -> Result<&'t T, Mismatch> {
    let index = input.index()?;
    symbols.get(index).ok_or_else(|| format!("an enum of {} has no symbol {index}", symbols.len()))
}

/// A time that RFC 3339 can tell: of the years 0 to 9999.
pub(super) fn time(since_1970: i64, unit: Unit) -> Result<DateTime<Utc>, Mismatch> {
    let time = match unit {
        Unit::Millis => DateTime::from_timestamp_millis(since_1970),
        Unit::Micros => DateTime::from_timestamp_micros(since_1970),
        Unit::Nanos => Some(DateTime::from_timestamp_nanos(since_1970)),
    };
    let is_told = |time: &DateTime<Utc>| (0..10_000).contains(&chrono::Datelike::year(time));
    time.filter(is_told).ok_or_else(|| {
        format!("{since_1970} {unit:?} is a time outside of the years 0 to 9999").to_lowercase()
    })
}

fn date(days: i32, out: &mut String) -> Result<(), Mismatch> {
    let epoch = NaiveDate::default();
    let count = Days::new(u64::from(days.unsigned_abs()));
    let date = if days < 0 { epoch.checked_sub_days(count) } else { epoch.checked_add_days(count) };
    let date = date.ok_or_else(|| format!("{days} days is no date"))?;
    quoted(&date.to_string(), out);
    Ok(())
}

fn number(number: impl std::fmt::Display, out: &mut String) {
    // Memory takes it.
    let _ = write!(out, "{number}");
}

fn float(number: f64, out: &mut String) {
    match serde_json::Number::from_f64(number) {
        Some(number) => self::number(number, out),
        None => quoted(&number.to_string(), out),
    }
}

/// A text that needs no escapes.
pub(super) fn quoted(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// A text as JSON.
pub(super) fn text(text: &str, out: &mut String) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        return quoted(text, out);
    }
    // A text always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn separate(follows: bool, out: &mut String) {
    if follows {
        out.push(',');
    }
}
