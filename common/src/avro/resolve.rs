//! Whether a reader's schema can read what was written by a writer's, by Avro's rules; and what breaks, in words.

use super::schema::Schema;
use super::types::{Enum, Record, Type};

/// What keeps `reader` from reading what `writer` says, each with the field that it is about. Empty: nothing.
pub fn breaks(writer: &Schema, reader: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    compare(&writer.0, &reader.0, "", &mut found);
    found
}

fn compare(writer: &Type, reader: &Type, path: &str, found: &mut Vec<String>) {
    let differs =
        || format!("{}: the writer's {} cannot be read as {}", shown(path), writer.name(), reader.name());
    match (writer, reader) {
        (Type::Union(branches), _) => {
            // Any of them may have been written.
            for branch in branches.iter() {
                if !is_readable(branch, reader) {
                    found.push(format!(
                        "{}: the writer's {} may be {}, which cannot be read as {}",
                        shown(path),
                        writer.name(),
                        branch.name(),
                        reader.name()
                    ));
                }
            }
        }
        (_, Type::Union(branches)) => {
            let reads = branches.iter().any(|branch| is_readable(writer, branch));
            found.extend((!reads).then(differs));
        }
        (Type::Record(writer), Type::Record(reader)) => compare_records(writer, reader, path, found),
        (Type::Enum(writer), Type::Enum(reader)) => compare_enums(writer, reader, path, found),
        (Type::Array(writer), Type::Array(reader)) => compare(writer, reader, &format!("{path}[]"), found),
        (Type::Map(writer), Type::Map(reader)) => compare(writer, reader, &format!("{path}{{}}"), found),
        _ if !is_promoted(writer, reader) => found.push(differs()),
        _ => {}
    }
}

fn is_readable(writer: &Type, reader: &Type) -> bool {
    let mut found = Vec::new();
    compare(writer, reader, "", &mut found);
    found.is_empty()
}

fn compare_records(writer: &Record, reader: &Record, path: &str, found: &mut Vec<String>) {
    for field in &reader.fields {
        let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
        match writer.source_of(field) {
            Some(source) => compare(&source.of, &field.of, &path, found),
            None if field.default.is_some() => {}
            None => found.push(format!("{path}: it is not in the writer's schema, and has no default")),
        }
    }
}

fn compare_enums(writer: &Enum, reader: &Enum, path: &str, found: &mut Vec<String>) {
    if reader.default.is_some() {
        return;
    }
    for symbol in writer.symbols.iter().filter(|symbol| !reader.symbols.contains(symbol)) {
        found.push(format!(
            "{}: enum {} lacks the symbol {symbol}, and has no default",
            shown(path),
            reader.name
        ));
    }
}

/// Types without parts.
fn is_promoted(writer: &Type, reader: &Type) -> bool {
    use Type::{Boolean, Bytes, Double, Fixed, Float, Int, Long, Null, Text};
    match (writer, reader) {
        (Fixed(writer), Fixed(reader)) => writer.size == reader.size,
        (Null, Null)
        | (Boolean, Boolean)
        | (Int { .. }, Int { .. } | Long(_) | Float | Double)
        | (Long(_), Long(_) | Float | Double)
        | (Float, Float | Double)
        | (Double, Double)
        | (Bytes | Text, Bytes | Text) => true,
        _ => false,
    }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "the schema" } else { path }
}

#[cfg(test)]
mod tests {
    use super::super::TASK_EVENT;
    use super::*;

    fn ours(change: impl Fn(&str) -> String) -> Schema {
        Schema::parse(&change(TASK_EVENT)).unwrap()
    }

    #[test]
    fn a_schema_reads_itself() {
        let same = ours(str::to_owned);
        assert_eq!(breaks(&same, &same), [""; 0]);
    }

    #[test]
    fn what_breaks_is_named() {
        let now = ours(str::to_owned);
        let title = r#""name": "title",
            "type": "string""#;
        assert!(TASK_EVENT.contains(title));
        let renamed = ours(|text| text.replace(title, r#""name": "subject", "type": "string""#));
        assert_eq!(
            breaks(&now, &renamed),
            ["data.subject: it is not in the writer's schema, and has no default"]
        );
        let retyped = ours(|text| text.replace(title, r#""name": "title", "type": "long""#));
        assert_eq!(breaks(&now, &retyped), ["data.title: the writer's string cannot be read as long"]);
        let nullable = ours(|text| text.replace(title, r#""name": "title", "type": ["null", "string"]"#));
        assert_eq!(breaks(&now, &nullable), [""; 0]);
        assert_eq!(
            breaks(&nullable, &now),
            ["data.title: the writer's union of null, string may be null, which cannot be read as string"]
        );
        let alias =
            ours(|text| text.replace(title, r#""name": "subject", "aliases": ["title"], "type": "string""#));
        assert_eq!(breaks(&now, &alias), [""; 0]);
    }

    #[test]
    fn a_symbol_needs_a_default_where_the_reader_lacks_it() {
        let now = ours(str::to_owned);
        let more = ours(|text| text.replace("\"completed\"]", "\"completed\", \"archived\"]"));
        assert_eq!(breaks(&more, &now), [""; 0]);
        let strict = ours(|text| text.replace("\"default\": \"unknown\"", "\"strict\": true"));
        assert_eq!(
            breaks(&more, &strict),
            ["data.status: enum task_events.TaskStatus lacks the symbol archived, and has no default"]
        );
    }

    #[test]
    fn numbers_and_texts_are_promoted_and_never_narrowed() {
        let read = |writer: &str, reader: &str| {
            breaks(&Schema::parse(writer).unwrap(), &Schema::parse(reader).unwrap()).is_empty()
        };
        assert!(read(r#""int""#, r#""double""#) && read(r#""bytes""#, r#""string""#));
        assert!(!read(r#""long""#, r#""int""#) && !read(r#""null""#, r#""string""#));
        assert!(read(r#"["int", "string"]"#, r#"["string", "long"]"#));
        assert!(!read(r#"{"type":"array","items":"long"}"#, r#"{"type":"array","items":"int"}"#));
    }
}
