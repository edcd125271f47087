//! The HTTP face of the store: routes, and what every request goes through.

mod authority;
mod bare;
mod conditional;
mod connection;
mod context;
mod guard;
mod health;
mod idempotency;
mod index;
mod input;
mod metrics;
mod openapi;
mod problem;
mod query;
mod tasks;

use std::collections::HashSet;
use std::net::{IpAddr, TcpListener};
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::ALLOW;
use actix_web::middleware::from_fn;
use actix_web::{App, Error, FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, web};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::relay::RelayState;
use crate::store::Store;

use connection::Connections;
pub use guard::AllowedHosts;
use guard::Hosts;
use metrics::{Requests, Route};
pub use problem::Problem;

/// Largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Connections at one time, at most, where the system allows as many files.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Time for the head of a connection's first request to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client that sent more than was read to take the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Memory for pages of tasks, from reading them until the client has taken them, in KiB.
const PAGES_KIB: usize = 64 * 1024;
/// A task at its largest in that memory: as itself and as JSON, with a title of 500 characters of 4 bytes.
const TASK_KIB: usize = 5;
/// Time for a page to wait for memory.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers share. Cheap to clone; each worker has its own.
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
    relay: watch::Receiver<RelayState>,
    /// Idempotency keys of requests under way.
    running: Arc<Mutex<HashSet<String>>>,
    connections: Arc<Connections>,
    hosts: Hosts,
    requests: Requests,
    /// KiB for pages of tasks that are read and sent.
    page_memory: Arc<Semaphore>,
}

impl State {
    /// What the handlers of a server on the address `bound` need. At most `connections` are open at one
    /// time; further ones are answered 503.
    pub fn new(
        store: Store,
        relay: watch::Receiver<RelayState>,
        connections: usize,
        bound: IpAddr,
        allowed_hosts: AllowedHosts,
    ) -> Self {
        Self {
            store,
            relay,
            running: Arc::default(),
            connections: Arc::new(Connections::new(connections)),
            hosts: Hosts::new(bound, allowed_hosts),
            requests: Requests::default(),
            page_memory: Arc::new(Semaphore::new(PAGES_KIB)),
        }
    }

    /// Waits for memory to read a page in, and to send it.
    async fn memory_for_tasks(&self, tasks: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = u32::try_from((tasks + 1) * TASK_KIB).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.page_memory).acquire_many_owned(kib);
        match timeout(PAGE_TIMEOUT, memory).await {
            Ok(Ok(memory)) => Ok(memory),
            _ => Err(Problem::overloaded()),
        }
    }
}

/// A server on the listener. It leaves signals alone.
///
/// It is what `HttpServer` builds, but for the connection between the socket and HTTP.
pub fn server(listener: TcpListener, state: State, stop_timeout: Duration) -> std::io::Result<Server> {
    // One processor is for the writer, the relay and the log. With two, one worker takes less of them than two do
    // (0.94 of the time for a request), and answers as soon.
    let workers = available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
    let accepted = state.connections.most() + connection::REFUSALS;
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(accepted.div_ceil(workers))
        .shutdown_timeout(stop_timeout.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let builder = builder.listen("task-api", listener, move || {
        let (connections, stopping) = (Arc::clone(&state.connections), stopping.clone());
        let app = app(state.clone()).into_factory().map_err(|error: Error| error.error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(LINGER_TIMEOUT)
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(move |stream: TcpStream| {
            let (peer, connections) = (stream.peer_addr().ok(), Arc::clone(&connections));
            async move { Ok((connections.admit(stream).await?, peer)) }
        })
        .and_then(http)
    })?;
    Ok(builder.run())
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
            resource("/tasks", "GET, HEAD, OPTIONS, POST")
                .route(web::post().to(tasks::create))
                .route(web::get().to(tasks::list))
                .route(web::head().to(tasks::list)),
        )
        .service(
            resource("/tasks/{id}", "GET, HEAD, OPTIONS, PATCH")
                .route(web::get().to(tasks::get))
                .route(web::head().to(tasks::get))
                .route(web::patch().to(tasks::patch)),
        )
        .service(resource("/tasks/{id}/complete", "OPTIONS, POST").route(web::post().to(tasks::complete)))
        .service(read_only("/", index::index))
        .service(read_only("/healthz", health::live))
        .service(read_only("/readyz", health::ready))
        .service(read_only("/metrics", metrics::exposition))
        .service(read_only("/docs", openapi::page))
        .service(read_only("/openapi.json", openapi::document))
        .default_service(web::to(no_such_path))
        .wrap(from_fn(context::around))
}

/// A path with the methods that it has: OPTIONS says which, and any other one is 405.
fn resource(path: &'static str, allow: &'static str) -> Resource {
    let options = move || async move { HttpResponse::NoContent().insert_header((ALLOW, allow)).finish() };
    web::resource(path)
        .app_data(Route(path))
        .route(web::method(Method::OPTIONS).to(options))
        .default_service(problem::method_not_allowed(allow))
}

/// HEAD is answered wherever GET is.
fn read_only<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, "GET, HEAD, OPTIONS").route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// What is none of our paths: 404, or for `OPTIONS *` the methods of the whole server.
async fn no_such_path(request: HttpRequest) -> HttpResponse {
    if request.method() == Method::OPTIONS && request.path() == "*" {
        return HttpResponse::NoContent().insert_header((ALLOW, "GET, HEAD, OPTIONS, PATCH, POST")).finish();
    }
    problem::no_such_path(&request)
}
