//! Whatever is sent is answered: any bytes as body, any JSON, any path, query and header. Never a 5xx, an
//! error is always problem details, and what is answered 2xx is what was asked for.

use std::net::Ipv4Addr;

use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::header::{HOST, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri};
use actix_web::test::{TestRequest, init_service, read_body, try_call_service};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use task_api::http::{AllowedHosts, State, app};
use task_api::relay::RelayState;
use task_api::store::Store;
use task_api::title::Title;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::{NO_KAFKA, live};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "PURGE"];
const PATHS: [&str; 9] = [
    "/",
    "/tasks",
    "/tasks/ID",
    "/tasks/ID/complete",
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
];
const HEADERS: [&str; 12] = [
    "accept",
    "content-encoding",
    "host",
    "sec-fetch-site",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "x-correlation-id",
    "traceparent",
    "content-type",
    "content-length",
    "origin",
];
const FIELDS: [&str; 4] = ["title", "owner_id", "status", "x"];

#[derive(Debug, Clone)]
struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

fn title() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{1,20}", any::<String>(), "[ \\t]{0,3}[a-zß漢]{495,502}[ \\u{3000}]{0,3}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        title().prop_map(Value::from),
        any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string().into()),
        prop_oneof![Just("pending"), Just("in_progress"), Just("completed")].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![vec(inner.clone(), 0..6).prop_map(Value::from), object(inner).prop_map(Value::from)]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key =
        prop_oneof![8 => proptest::sample::select(&FIELDS[..]).prop_map(str::to_owned), 1 => any::<String>()];
    btree_map(key, values, 0..4).prop_map(|fields| fields.into_iter().collect())
}

/// Often valid.
fn task() -> impl Strategy<Value = Value> {
    let owner = proptest::option::of(any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()));
    (title(), owner).prop_map(|(title, owner)| json!({"title": title, "owner_id": owner}))
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![task(), value(), object(value()).prop_map(Value::from)];
    let json = json.prop_map(|value| value.to_string().into_bytes()).boxed();
    let damaged =
        (json.clone(), any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(mut json, at, byte)| {
            let at = at.index(json.len());
            json[at] = byte;
            json
        });
    prop_oneof![4 => json, 1 => damaged, 1 => vec(any::<u8>(), 0..300), 1 => Just(vec![b'['; 65_536])]
}

/// Any bytes, those that a URL cannot have as they are percent-encoded, and now and then a broken encoding.
fn encoded() -> impl Strategy<Value = String> {
    let escape = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
    prop_oneof!["[a-z0-9_=&+.,;:@!-]{0,30}", vec(any::<u8>(), 0..20).prop_map(escape), "%[0-9a-g]{0,2}"]
}

fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => "(status|owner_id|limit|cursor)", 1 => encoded()];
    let value = prop_oneof!["(pending|completed|1|200|201|-1|1e3|99999999999999999999)", encoded()];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

/// Without what no header can carry.
fn printable(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().filter(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)).collect()
}

fn request() -> impl Strategy<Value = Request> {
    let path = prop_oneof![
        8 => proptest::sample::select(&PATHS[..]).prop_map(str::to_owned),
        1 => encoded().prop_map(|segment| format!("/tasks/{segment}")),
        1 => vec(encoded(), 1..4).prop_map(|segments| format!("/{}", segments.join("/"))),
    ];
    let plain = "(application/json|text/plain|\\*|\"1\"|W/\"1\"|[0-9]{1,6}|[0-9a-f-]{1,60}|\\PC{0,300})";
    let header_value =
        prop_oneof![plain.prop_map(String::into_bytes), vec(any::<u8>(), 0..300).prop_map(printable)];
    let header = (proptest::sample::select(&HEADERS[..]), header_value);
    let method = proptest::sample::select(&METHODS[..]);
    (method, path, query(), vec(header, 0..4), body()).prop_map(|(method, path, query, headers, body)| {
        let path = if query.is_empty() { path } else { format!("{path}?{query}") };
        Request { method, path, headers, body }
    })
}

/// Sends it as it is, if HTTP can carry it; status, media type and body of the answer.
async fn send<B: MessageBody>(
    service: &impl Service<actix_http::Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    request: &Request,
) -> Option<(u16, String, Vec<u8>)> {
    let uri: Uri = request.path.parse().ok()?;
    let mut sent = TestRequest::with_uri(&uri.to_string())
        .append_header((HOST, "localhost"))
        .method(Method::from_bytes(request.method.as_bytes()).unwrap());
    for (name, value) in &request.headers {
        let value = HeaderValue::from_bytes(value).ok()?;
        sent = sent.append_header((HeaderName::from_static(name), value));
    }
    // A refusal of the framework comes as an error; the server sends the answer in it, too.
    let response = try_call_service(service, sent.set_payload(request.body.clone()).to_request()).await;
    let (status, headers, body) = match response {
        Ok(response) => {
            let (status, headers) = (response.status(), response.headers().clone());
            (status, headers, read_body(response).await.to_vec())
        }
        Err(error) => {
            let response = error.error_response();
            let (status, headers) = (response.status(), response.headers().clone());
            (status, headers, response.into_body().try_into_bytes().unwrap().to_vec())
        }
    };
    let id = headers.get("x-correlation-id").expect("no correlation id").to_str().unwrap();
    assert!(id.parse::<Uuid>().is_ok(), "{id}");
    let media_type = headers.get("content-type").map(|value| value.to_str().unwrap().to_owned());
    Some((status.as_u16(), media_type.unwrap_or_default(), body))
}

/// What a request to create a task asks for, if it is one that has to be done.
fn asked(body: &[u8]) -> Option<(String, Option<Uuid>)> {
    let Value::Object(mut fields) = serde_json::from_slice(body).ok()? else { return None };
    let title = Title::parse(fields.remove("title")?.as_str()?).ok()?.as_str().to_owned();
    let owner = match fields.remove("owner_id") {
        None | Some(Value::Null) => None,
        Some(owner) => Some(owner.as_str()?.parse().ok()?),
    };
    assert!((1..=500).contains(&title.chars().count()) && !title.contains(char::is_control), "{title:?}");
    fields.is_empty().then_some((title, owner))
}

#[test]
fn whatever_is_sent_is_answered_and_done_as_asked_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    let (_relay, relay) = watch::channel(RelayState::default());
    let live = live(store.clone(), relay.clone(), NO_KAFKA);
    let state =
        State::new(store.clone(), relay, 10, Ipv4Addr::LOCALHOST.into(), AllowedHosts::default(), live);
    let service = runtime.block_on(init_service(app(state)));
    let new =
        |body: Vec<u8>| Request { method: "POST", path: "/tasks".to_owned(), headers: Vec::new(), body };
    let first = runtime.block_on(send(&service, &new(b"{\"title\":\"t\"}".to_vec()))).unwrap();
    let id = serde_json::from_slice::<Value>(&first.2).unwrap()["id"].as_str().unwrap().to_owned();

    let config = ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config.clone());
    let answered = runner.run(&request(), |mut request| {
        request.path = request.path.replace("ID", &id);
        let Some((status, media_type, body)) = runtime.block_on(send(&service, &request)) else {
            return Err(TestCaseError::reject("not HTTP"));
        };
        prop_assert!(status < 500, "{status}: {}", String::from_utf8_lossy(&body));
        if status >= 400 {
            prop_assert_eq!(media_type, "application/problem+json");
            let problem: Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(&problem["status"], status);
            prop_assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        }
        Ok(())
    });
    answered.unwrap();

    let mut runner = TestRunner::new(config);
    let created = runner.run(&body(), |body| {
        let (status, _, answer) = runtime.block_on(send(&service, &new(body.clone()))).unwrap();
        prop_assert_eq!(status == 201, asked(&body).is_some(), "{}", status);
        if let Some((title, owner)) = asked(&body) {
            let task: Value = serde_json::from_slice(&answer).unwrap();
            prop_assert_eq!(&task["title"], &title);
            prop_assert_eq!(&task["owner_id"], &json!(owner));
            let path = format!("/tasks/{}", task["id"].as_str().unwrap());
            let read = Request { method: "GET", path, headers: Vec::new(), body: Vec::new() };
            prop_assert_eq!(runtime.block_on(send(&service, &read)).unwrap().2, answer);
        }
        Ok(())
    });
    created.unwrap();
    drop((service, store));
    writer.join().unwrap();
}
