//! The server: workers, and the connection between the socket and HTTP.

use std::net::TcpListener;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::Error;
use actix_web::dev::{AppConfig, Server};
use task_events::tls::TlsServer;
use tokio::net::TcpStream;

use super::connection;
use super::routes::app;
use super::state::State;

/// Connections at one time, at most, where the system allows as many files.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Time for the head of a connection's first request to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client that sent more than was read to take the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A server on the listener, which speaks HTTPS with `tls`. It leaves signals alone.
///
/// It is what `HttpServer` builds, but for the connection between the socket and HTTP.
pub fn server(
    listener: TcpListener,
    tls: Option<TlsServer>,
    state: State,
    stop_timeout: Duration,
) -> std::io::Result<Server> {
    // One for each processor, though writer and relay want theirs: a client on the same machine is woken on the
    // processor of the worker that answers it, and a lone worker would wait for its clients.
    let workers = available_parallelism().map_or(1, NonZero::get);
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
        let tls = tls.clone();
        fn_service(move |stream: TcpStream| {
            let (peer, connections, tls) = (stream.peer_addr().ok(), Arc::clone(&connections), tls.clone());
            async move { Ok((connections.admit(stream, tls.as_ref()).await?, peer)) }
        })
        .and_then(http)
    })?;
    Ok(builder.run())
}
