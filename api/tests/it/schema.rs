//! As much of JSON Schema as the served documents use.

use regex_lite::Regex;
use serde_json::Value;

/// Follows a reference within the document.
pub fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => value,
    }
}

/// Panics where the value does not fit.
#[track_caller]
pub fn validate(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Err(why) = fits(document, schema, value, at) {
        panic!("{why}");
    }
}

/// Whether the value fits; if not, where it does not. Panics on a keyword that nobody would check.
pub fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolve(document, schema);
    let fits = |schema: &Value, value: &Value, at: &str| fits(document, schema, value, at);
    for (keyword, expected) in schema.as_object().unwrap() {
        let number = || expected.as_f64().unwrap();
        let length = || value.as_str().map(|text| text.chars().count() as f64);
        let holds = match keyword.as_str() {
            "description" | "default" | "$schema" | "$id" | "title" | "$defs" | "examples" | "then" => true,
            "type" => {
                let types = expected.as_array().cloned().unwrap_or_else(|| vec![expected.clone()]);
                types.iter().any(|name| has_type(value, name.as_str().unwrap()))
            }
            "const" => value == expected,
            "enum" => expected.as_array().unwrap().contains(value),
            "pattern" => {
                let pattern = Regex::new(expected.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "minLength" => length().is_none_or(|length| length >= number()),
            "maxLength" => length().is_none_or(|length| length <= number()),
            "minimum" => value.as_f64().is_none_or(|value| value >= number()),
            "maximum" => value.as_f64().is_none_or(|value| value <= number()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= number()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number()),
            "format" => value.as_str().is_none_or(|text| match expected.as_str().unwrap() {
                "uuid" => text.parse::<uuid::Uuid>().is_ok_and(|id| id.to_string() == text),
                "date-time" => {
                    text.len() == 27
                        && text.ends_with('Z')
                        && chrono::DateTime::parse_from_rfc3339(text).is_ok()
                }
                other => panic!("format {other}"),
            }),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| fits(expected, item, at))?;
                true
            }
            "anyOf" => expected.as_array().unwrap().iter().any(|one| fits(one, value, at).is_ok()),
            "if" => {
                if fits(expected, value, at).is_ok() {
                    fits(&schema["then"], value, at)?;
                }
                true
            }
            "additionalProperties" => {
                *expected != false
                    || value.as_object().is_none_or(|fields| {
                        fields.keys().all(|field| schema["properties"].get(field).is_some())
                    })
            }
            "properties" => {
                for (field, schema_of_field) in expected.as_object().unwrap() {
                    if let Some(value) = value.get(field) {
                        fits(schema_of_field, value, &format!("{at}.{field}"))?;
                    }
                }
                true
            }
            "required" => {
                let mut fields = expected.as_array().unwrap().iter();
                fields.all(|field| value.get(field.as_str().unwrap()).is_some())
            }
            other => panic!("the keyword {other} is checked by nobody"),
        };
        if !holds {
            return Err(format!("{at}: {keyword}: {value} against {schema}"));
        }
    }
    Ok(())
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        other => panic!("type {other}"),
    }
}
