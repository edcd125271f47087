//! The HTTP face of the store: routes, and what every request goes through.

mod conditional;
mod context;
mod health;
mod idempotency;
mod input;
mod openapi;
mod problem;
mod tasks;

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::{App, Error, HttpServer, web};
use tokio::sync::watch;

use crate::relay::RelayState;
use crate::store::Store;

pub use problem::Problem;

/// Largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Connections of one worker, at most; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// Time for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the handlers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
    relay: watch::Receiver<RelayState>,
    /// Idempotency keys of requests under way.
    running: Arc<Mutex<HashSet<String>>>,
}

impl State {
    /// What the handlers need.
    pub fn new(store: Store, relay: watch::Receiver<RelayState>) -> Self {
        Self { store, relay, running: Arc::default() }
    }
}

/// A server on the listener. It leaves signals alone.
pub fn server(listener: TcpListener, state: State, stop_timeout: Duration) -> std::io::Result<Server> {
    let server = HttpServer::new(move || app(state.clone()))
        .client_request_timeout(HEAD_TIMEOUT)
        .max_connections(MAX_CONNECTIONS)
        .shutdown_timeout(stop_timeout.as_secs())
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

/// The application: all routes, for a server or a test.
pub fn app(
    state: State,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(web::Data::new(state))
        .app_data(web::PayloadConfig::new(MAX_BODY))
        .service(
            web::resource("/tasks")
                .route(web::post().to(tasks::create))
                .route(web::get().to(tasks::list))
                .route(web::head().to(tasks::list))
                .default_service(problem::method_not_allowed("GET, HEAD, POST")),
        )
        .service(
            web::resource("/tasks/{id}")
                .route(web::get().to(tasks::get))
                .route(web::head().to(tasks::get))
                .route(web::patch().to(tasks::patch))
                .default_service(problem::method_not_allowed("GET, HEAD, PATCH")),
        )
        .service(
            web::resource("/tasks/{id}/complete")
                .route(web::post().to(tasks::complete))
                .default_service(problem::method_not_allowed("POST")),
        )
        .service(read_only("/healthz", web::get().to(health::live), web::head().to(health::live)))
        .service(read_only("/readyz", web::get().to(health::ready), web::head().to(health::ready)))
        .service(read_only(
            "/openapi.json",
            web::get().to(openapi::document),
            web::head().to(openapi::document),
        ))
        .default_service(web::to(problem::no_such_path))
        .wrap(from_fn(context::around))
}

fn read_only(path: &str, get: actix_web::Route, head: actix_web::Route) -> actix_web::Resource {
    web::resource(path).route(get).route(head).default_service(problem::method_not_allowed("GET, HEAD"))
}
