//! The API's description (OpenAPI), held against what the server answers.

use std::sync::LazyLock;

use reqwest::Method;
use serde_json::Value;

use crate::support::{Answer, App};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../src/http/contract/openapi.json")).unwrap());

/// Follows a reference.
fn resolve(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).expect(reference),
        None => value,
    }
}

fn path_item(path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let matches = |template: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let same = |(t, p): (&&str, &&str)| t == p || (*t == "{id}" && !p.is_empty());
        template.len() == path.len() && template.iter().zip(&path).all(same)
    };
    paths.iter().find(|(template, _)| matches(template)).map(|(_, item)| item)
}

fn operation<'d>(item: &'d Value, method: &Method) -> Option<&'d Value> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    item.get(method.as_str().to_lowercase())
}

/// The value of `Allow` for a path.
fn allowed(item: &Value) -> String {
    let mut methods: Vec<String> = item
        .as_object()
        .unwrap()
        .keys()
        .map(|key| key.to_uppercase())
        .filter(|key| key != "PARAMETERS")
        .collect();
    methods.push("OPTIONS".to_owned());
    if methods.iter().any(|method| method == "GET") {
        methods.push("HEAD".to_owned());
    }
    methods.sort();
    methods.join(", ")
}

/// What is answered before it is known what the path has.
fn refusal(answer: &Answer) -> Option<&'static Value> {
    let name = match answer.status {
        400 => "BadRequest",
        415 => "UnsupportedMediaType",
        421 => "Misdirected",
        _ => return None,
    };
    Some(&DOCUMENT["components"]["responses"][name])
}

/// Panics if the description does not allow the answer.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let response = match path_item(path) {
        None => refusal(answer).unwrap_or_else(|| {
            assert_eq!(answer.status, 404, "{path} is in no description: {answer:?}");
            &DOCUMENT["components"]["responses"]["NotFound"]
        }),
        Some(item) => match operation(item, method) {
            None if method == Method::OPTIONS && answer.status == 204 => {
                assert_eq!(answer.header("allow"), allowed(item), "{path}");
                assert!(answer.body.is_empty(), "{answer:?}");
                return;
            }
            None if refusal(answer).is_some() => refusal(answer).unwrap(),
            None => {
                assert_eq!(answer.status, 405, "{method} {path} is in no description: {answer:?}");
                assert_eq!(answer.header("allow"), allowed(item), "{path}");
                &DOCUMENT["components"]["responses"]["MethodNotAllowed"]
            }
            Some(operation) => {
                let response = &operation["responses"][answer.status.to_string()];
                assert!(response.is_object(), "{method} {path} answered {}: {answer:?}", answer.status);
                resolve(response)
            }
        },
    };
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let value = answer.header(name);
        validate(&resolve(header)["schema"], &value.into(), &format!("{method} {path} {name}"));
    }
    let Some(content) = response["content"].as_object() else {
        assert!(answer.body.is_empty(), "{answer:?}");
        return;
    };
    let media_type = answer.header("content-type");
    let content = content.get(media_type).unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    if method == Method::HEAD {
        assert!(answer.body.is_empty(), "{answer:?}");
        return;
    }
    let is_json = media_type.ends_with("json");
    let body = if is_json { answer.json() } else { String::from_utf8_lossy(&answer.body).into() };
    validate(&content["schema"], &body, &format!("{method} {path} {}", answer.status));
    if media_type == "application/problem+json" {
        assert_eq!(body["status"], answer.status);
        assert_eq!(body["instance"], path.split('?').next().unwrap());
    }
}

/// As much of JSON Schema as the description uses; panics where the value does not fit.
fn validate(schema: &Value, value: &Value, at: &str) {
    let schema = resolve(schema);
    let fail = |what: &str| panic!("{at}: {what}: {value} against {schema}");
    for (keyword, expected) in schema.as_object().unwrap() {
        let number = || expected.as_f64().unwrap();
        let length = || value.as_str().map(|text| text.chars().count() as f64);
        let holds = match keyword.as_str() {
            "description" | "default" | "required" => true,
            "type" => {
                let types = expected.as_array().cloned().unwrap_or_else(|| vec![expected.clone()]);
                types.iter().any(|name| has_type(value, name.as_str().unwrap()))
            }
            "const" => value == expected,
            "enum" => expected.as_array().unwrap().contains(value),
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
                value.as_array().into_iter().flatten().for_each(|item| validate(expected, item, at));
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
                        validate(schema_of_field, value, &format!("{at}.{field}"));
                    }
                }
                true
            }
            other => panic!("the keyword {other} is checked by nobody"),
        };
        if !holds {
            fail(keyword);
        }
    }
    for field in schema["required"].as_array().into_iter().flatten() {
        if value.get(field.as_str().unwrap()).is_none() {
            fail("required");
        }
    }
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

/// The content of a request or a response with the examples in it.
fn examples(content: &Value) -> Vec<&Value> {
    let several = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
    content.get("example").into_iter().chain(several).collect()
}

/// Method, path and description of every call.
fn operations() -> Vec<(Method, &'static str, &'static Value)> {
    let mut found = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                found.push((method.to_uppercase().parse().unwrap(), path.as_str(), operation));
            }
        }
    }
    found
}

#[test]
fn the_examples_have_the_form_that_is_described() {
    let mut seen = 0;
    for (method, path, operation) in operations() {
        let responses = operation["responses"].as_object().unwrap().values().map(resolve);
        for body in responses.chain([&operation["requestBody"]]) {
            for (_, content) in body["content"].as_object().into_iter().flatten() {
                for example in examples(content) {
                    validate(&content["schema"], example, &format!("{method} {path}"));
                    seen += 1;
                }
            }
            for (name, header) in body["headers"].as_object().into_iter().flatten() {
                let header = resolve(header);
                validate(&header["schema"], &header["example"], name);
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[tokio::test]
async fn every_described_call_is_there_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let served = app.call("GET", "/openapi.json").send().await;
    assert_eq!(served.json(), *DOCUMENT);

    let id = app.create("a task").await["id"].as_str().unwrap().to_owned();
    for (method, path, operation) in operations() {
        let path = path.replace("{id}", &id);
        let bodies = examples(&operation["requestBody"]["content"]["application/json"]);
        let bodies = if bodies.is_empty() { vec![&Value::Null] } else { bodies };
        for body in bodies {
            // The client checks that the answer is a described one.
            let answer = app.call(method.as_str(), &path).json(body).await;
            assert!(answer.status < 300, "{method} {path} {body}: {answer:?}");
        }
    }
    for path in DOCUMENT["paths"].as_object().unwrap().keys() {
        let item = path_item(path).unwrap();
        let path = path.replace("{id}", &id);
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
            let described = method == "OPTIONS" || operation(item, &method.parse().unwrap()).is_some();
            let answer = app.call(method, &path).body("{}").send().await;
            assert_eq!(answer.status == 405, !described, "{method} {path}: {answer:?}");
        }
    }
    app.stop().await;
}
