//! PostgreSQL: how to reach it, and its schema.
//!
//! | part | what |
//! | --- | --- |
//! | `address` | `DATABASE_URL` |
//! | `tls_options` | what an address says about TLS |
//! | `args` | flags and environment |
//! | `login` | the login in a file, which may be replaced |
//! | `endpoint` | what is needed to connect |
//! | `encryption` | TLS below a connection |
//! | `hosts` | which host, and which address of it, is tried when |
//! | `first` | with which of several an attempt begins |
//! | `session` | a connection, which ends with its value |
//! | `migrations` | the versions of the schema |
//! | `departure` | a database whose tasks were moved away |
//! | `error` | what went wrong, by what to do about it |
//!
//! # Invariants
//!
//! 1. *No statement outlives its caller for long.* The server ends a statement, a wait for a lock, an idle transaction
//!    and a session whose client is gone, each within seconds, by settings of the session; a call that is given up
//!    is cancelled at the server before its connection is dropped.
//! 2. *The address is a secret.* No error, log line or `Debug` shows it; host and database alone are named.
//! 3. *The schema moves forward only*, one process at a time, and a program refuses a schema that does not work
//!    with it.
//! 4. *TLS is verified or there is no connection*: no setting leaves the check out, and nothing falls back to plain text.

mod address;
mod args;
pub mod departure;
mod encryption;
mod endpoint;
mod error;
mod first;
mod hosts;
mod login;
mod migrations;
mod session;
mod tls_options;

pub use address::DatabaseUrl;
pub use args::DatabaseArgs;
pub use endpoint::Endpoint;
pub use error::{DatabaseError, Trouble};
pub use migrations::{Applied, Migration, SchemaState, ensure, migrate, state};
pub use session::{STATEMENT_TIMEOUT, ServerProcess, Session, connect};
