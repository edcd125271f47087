//! The store in PostgreSQL, where it differs from the embedded one: replicas, faults of the database, the relay's turn.
//! Left out, with a line that says so, where PostgreSQL is not installed.

mod faults;
mod pooler;
mod replicas;
mod service;
mod turns;

use harness::Postgres;
use task_api::store::Store;
use task_api::store::postgres::Closing;

use crate::support::connect;

/// A database of its own on the shared server, and so many replicas.
async fn replicas(database: &str, count: usize) -> Option<(&'static Postgres, Vec<(Store, Closing)>)> {
    let server = Postgres::shared().unwrap()?;
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(connect(server, database).await);
    }
    Some((server, stores))
}
