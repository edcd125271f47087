//! The HTTP interface of the store.
//!
//! | part | what |
//! | --- | --- |
//! | `server`, `connection`, `bare` | sockets: workers, connections bounded in number, time and memory |
//! | `routes` | which path and method has which handler |
//! | `context`, `guard`, `authority` | what every request goes through: correlation id, log line, CSRF, DNS rebinding |
//! | `edge`, `proxies`, `cors` | where it is configured: who calls, how often, and from which page |
//! | `tasks`, `list`, `input`, `query`, `conditional`, `idempotency` | `/tasks`: from bytes to valid types, and back |
//! | `page`, `live` | `/`, the live page, and what it asks for |
//! | `docs`, `contract`, `encoding` | the documentation page; OpenAPI, AsyncAPI, JSON Schema; compression |
//! | `health`, `metrics`, `requests` | probes; Prometheus; requests by route and status |
//! | `state`, `problem` | what handlers share; errors as RFC 9457 problem details |

mod authority;
mod bare;
mod conditional;
mod connection;
mod context;
mod contract;
mod cors;
mod docs;
mod edge;
mod encoding;
mod guard;
mod handshake;
mod health;
mod idempotency;
mod input;
mod list;
mod live;
mod metrics;
mod page;
mod problem;
mod proxies;
mod query;
mod redriving;
mod requests;
mod routes;
mod server;
mod socket;
mod state;
mod tasks;

pub use cors::AllowedOrigins;
pub use edge::Edge;
pub use guard::AllowedHosts;
pub use problem::Problem;
pub use proxies::TrustedProxies;
pub use routes::app;
pub use server::{MAX_CONNECTIONS, server};
pub use state::State;

/// Largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What a page of ours may do: its own script and style, and calls of this server.
const CONTENT_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
