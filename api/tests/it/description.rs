//! The API's description (OpenAPI), held against what the server answers.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::{Value, json};
use task_api::store::Order;
use task_api::task::TaskStatus;
use task_api::title::MAX_TITLE;

use crate::schema;
use crate::support::{Answer, App};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../src/http/contract/openapi.json")).unwrap());

fn resolve(value: &'static Value) -> &'static Value {
    schema::resolve(&DOCUMENT, value)
}

fn validate(schema: &Value, value: &Value, at: &str) {
    schema::validate(&DOCUMENT, schema, value, at);
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

fn operation(item: &'static Value, method: &Method) -> Option<&'static Value> {
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
        401 => "Unauthorized",
        403 => "Forbidden",
        415 => "UnsupportedMediaType",
        429 => "TooManyRequests",
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
        let header = resolve(header);
        if header["required"] == true || answer.headers.contains_key(name) {
            let value = answer.header(name);
            validate(&header["schema"], &value.into(), &format!("{method} {path} {name}"));
        }
    }
    if answer.headers.contains_key("content-encoding") {
        // What comes out of it, the test looks at itself.
        return;
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

    for (method, path, operation) in operations() {
        let id = app.create("a task").await["id"].as_str().unwrap().to_owned();
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
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
            let id = app.create("a task").await["id"].as_str().unwrap().to_owned();
            let path = path.replace("{id}", &id);
            let described = method == "OPTIONS" || operation(item, &method.parse().unwrap()).is_some();
            let answer = app.call(method, &path).body("{}").send().await;
            assert_eq!(answer.status == 405, !described, "{method} {path}: {answer:?}");
        }
    }
    app.stop().await;
}

/// The schemas of requests hold just the fields and parameters that handlers read, with the values that their types
/// know. (Those of responses are held against every answer that a test gets.)
#[tokio::test]
async fn requests_are_described_as_the_handlers_read_them() {
    let names = |values: &mut dyn Iterator<Item = &str>| json!(values.collect::<Vec<_>>());
    let schemas = &DOCUMENT["components"]["schemas"];
    assert_eq!(schemas["Status"]["enum"], names(&mut TaskStatus::ALL.iter().map(|status| status.as_str())));
    assert_eq!(schemas["Order"]["enum"], names(&mut Order::ALL.iter().map(|order| order.as_str())));
    assert_eq!(schemas["Title"]["maxLength"], MAX_TITLE);

    let dir = tempfile::tempdir().unwrap();
    let app = App::start(dir.path()).await;
    let fields: BTreeSet<&str> = ["NewTask", "TaskPatch", "Task", "TaskPage"]
        .iter()
        .flat_map(|name| schemas[name]["properties"].as_object().unwrap().keys().map(String::as_str))
        .chain(["limit", "order", "sort", "key", "correlation_id"])
        .collect();
    let is_unknown = |answer: &Answer, name: &str| {
        let errors = answer.json()["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .any(|error| error["field"] == name && error["message"].as_str().unwrap().starts_with("unknown "))
    };
    let task = format!("/tasks/{}", app.create("t").await["id"].as_str().unwrap());
    for (method, path, schema) in [("POST", "/tasks", "NewTask"), ("PATCH", task.as_str(), "TaskPatch")] {
        for field in &fields {
            let answer = app.call(method, path).json(&json!({*field: 7})).await;
            assert_eq!(answer.status, 422, "{schema}.{field} is no number");
            let is_described = schemas[schema]["properties"].get(field).is_some();
            assert_eq!(is_unknown(&answer, field), !is_described, "{schema}.{field}");
        }
    }
    let mut parameters: BTreeSet<&str> = fields.clone();
    let described: BTreeSet<&str> = DOCUMENT["paths"]["/tasks"]["get"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|parameter| resolve(parameter)["in"] == "query")
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    parameters.extend(&described);
    for parameter in parameters {
        let answer = app.call("GET", &format!("/tasks?{parameter}=~")).send().await;
        assert_eq!(answer.status, 422, "{parameter}");
        assert_eq!(is_unknown(&answer, parameter), !described.contains(parameter), "{parameter}");
    }
    let limit = DOCUMENT["paths"]["/tasks"]["get"]["parameters"].as_array().unwrap().iter();
    let limit = limit.clone().find(|parameter| parameter["name"] == "limit").unwrap();
    let most = limit["schema"]["anyOf"][0]["maximum"].as_u64().unwrap();
    assert_eq!(app.call("GET", &format!("/tasks?limit={most}")).send().await.status, 200);
    app.call("GET", &format!("/tasks?limit={}", most + 1)).send().await.refused(422, &["limit"]);
    app.stop().await;
}
