//! What a log line is about, beside its message: fields of their own in JSON. In text the message has them
//! already, but for the correlation id, which is shown before it.

use std::borrow::Cow;
use std::fmt::{self, Write};

use log::kv::{self, Key, VisitSource, VisitValue};
use uuid::Uuid;

use crate::error_code::Code;

/// The field that all lines about one request and its events share.
pub const CORRELATION_ID: &str = "correlation_id";

/// One thing that a line is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Field<'a> {
    /// Its name, which needs no escaping.
    pub name: &'a str,
    /// Its value.
    pub value: FieldValue<'a>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue<'a> {
    /// None: the field is left out.
    Absent,
    /// A text.
    Text(Cow<'a, str>),
    /// A whole number.
    Number(i64),
    /// A time in milliseconds, say.
    Decimal(f64),
    /// An id.
    Id(Uuid),
}

impl<'a> Field<'a> {
    /// A field of that name.
    pub fn new(name: &'a str, value: impl Into<FieldValue<'a>>) -> Self {
        Self { name, value: value.into() }
    }
}

impl<'a> From<&'a str> for FieldValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for FieldValue<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for FieldValue<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<f64> for FieldValue<'_> {
    fn from(number: f64) -> Self {
        Self::Decimal(number)
    }
}

impl From<Uuid> for FieldValue<'_> {
    fn from(id: Uuid) -> Self {
        Self::Id(id)
    }
}

impl<'a, T: Into<FieldValue<'a>>> From<Option<T>> for FieldValue<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

/// The fields of a line that came by one of `log`'s macros.
pub(super) fn of_record<'a>(record: &'a log::Record<'_>) -> Vec<Field<'a>> {
    struct Fields<'a>(Vec<Field<'a>>);

    impl<'a> VisitSource<'a> for Fields<'a> {
        fn visit_pair(&mut self, key: Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
            let Some(name) = key.to_borrowed_str() else { return Ok(()) };
            let mut taken = Taken(FieldValue::Absent);
            value.visit(&mut taken)?;
            self.0.push(Field { name, value: taken.0 });
            Ok(())
        }
    }

    struct Taken<'a>(FieldValue<'a>);

    impl<'a> VisitValue<'a> for Taken<'a> {
        fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
            self.0 = FieldValue::Text(value.to_string().into());
            Ok(())
        }

        fn visit_null(&mut self) -> Result<(), kv::Error> {
            Ok(())
        }

        fn visit_u64(&mut self, number: u64) -> Result<(), kv::Error> {
            self.0 = i64::try_from(number).unwrap_or(i64::MAX).into();
            Ok(())
        }

        fn visit_i64(&mut self, number: i64) -> Result<(), kv::Error> {
            self.0 = number.into();
            Ok(())
        }

        fn visit_f64(&mut self, number: f64) -> Result<(), kv::Error> {
            self.0 = number.into();
            Ok(())
        }

        fn visit_borrowed_str(&mut self, text: &'a str) -> Result<(), kv::Error> {
            self.0 = text.into();
            Ok(())
        }
    }

    let mut fields = Fields(Vec::new());
    // The visitor fails at nothing.
    let _ = record.key_values().visit(&mut fields);
    fields.0
}

/// Appends to the start of a text line what its message does not say.
pub(super) fn write_text(line: &mut String, fields: &[Field<'_>]) {
    for field in fields.iter().filter(|field| field.name == CORRELATION_ID) {
        let _ = match &field.value {
            FieldValue::Id(id) => write_all(line, ["{correlation_id=", encode(id, &mut buffer()), "}"]),
            FieldValue::Text(id) => write!(line, "{{{CORRELATION_ID}={id}}}"),
            _ => Ok(()),
        };
    }
}

/// Appends to a JSON line, behind its message.
pub(super) fn write_json(line: &mut String, fields: &[Field<'_>]) -> fmt::Result {
    for Field { name, value } in fields {
        if *value == FieldValue::Absent {
            continue;
        }
        write_all(line, [",\"", name, "\":"])?;
        match value {
            FieldValue::Absent => {}
            FieldValue::Text(text) => line.push_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?),
            FieldValue::Number(number) => write!(line, "{number}")?,
            FieldValue::Decimal(number) if number.is_finite() => write!(line, "{number}")?,
            FieldValue::Decimal(_) => line.push_str("null"),
            FieldValue::Id(id) => write_all(line, ["\"", encode(id, &mut buffer()), "\""])?,
        }
    }
    Ok(())
}

/// The code that the message of an error line ends with, as a field.
pub(super) fn code_of(message: &str) -> Option<Field<'static>> {
    let code = message.strip_suffix(']')?.rsplit_once('[')?.1;
    Some(Field::new("code", Code::from_name(code)?.as_str()))
}

fn buffer() -> [u8; uuid::fmt::Hyphenated::LENGTH] {
    [0; uuid::fmt::Hyphenated::LENGTH]
}

fn encode<'a>(id: &Uuid, buffer: &'a mut [u8]) -> &'a str {
    id.hyphenated().encode_lower(buffer)
}

fn write_all<const N: usize>(line: &mut String, parts: [&str; N]) -> fmt::Result {
    parts.into_iter().for_each(|part| line.push_str(part));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_macro_are_taken_with_their_types() {
        let (id, topic) = (Uuid::from_u128(7), "a \"b\"".to_owned());
        let pairs = [
            ("correlation_id", kv::Value::from_display(&id)),
            ("topic", kv::Value::from(topic.as_str())),
            ("offset", kv::Value::from(7_i64)),
            ("kind", kv::Value::null()),
        ];
        let message = format_args!("m");
        let record = log::Record::builder().args(message).key_values(&pairs).build();
        let fields = of_record(&record);
        let (mut json, mut text) = (String::new(), String::new());
        write_json(&mut json, &fields).unwrap();
        write_text(&mut text, &fields);
        let id = "00000000-0000-0000-0000-000000000007";
        assert_eq!(json, format!(r#","correlation_id":"{id}","topic":"a \"b\"","offset":7"#));
        assert_eq!(text, format!("{{correlation_id={id}}}"));
    }

    #[test]
    fn what_is_absent_or_no_number_leaves_the_line_json() {
        let fields = [
            Field::new("a", None::<Uuid>),
            Field::new("b", f64::NAN),
            Field::new("c", 0.25),
            Field::new("d", Uuid::nil()),
        ];
        let mut json = String::new();
        write_json(&mut json, &fields).unwrap();
        assert_eq!(json, r#","b":null,"c":0.25,"d":"00000000-0000-0000-0000-000000000000""#);
        let mut text = String::new();
        write_text(&mut text, &[Field::new(CORRELATION_ID, None::<Uuid>)]);
        assert_eq!(text, "");
    }

    #[test]
    fn only_a_code_of_the_catalogue_is_taken_for_one() {
        assert_eq!(code_of("it failed [TE0502]"), Some(Field::new("code", "TE0502")));
        for none in ["it failed", "it failed [TE9999]", "[TE0502] it failed", "]", ""] {
            assert_eq!(code_of(none), None, "{none}");
        }
    }
}
