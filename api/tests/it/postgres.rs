//! The store in PostgreSQL, where it differs from the embedded one: replicas, faults of the database, the relay's turn.
//! Left out, with a line that says so, where PostgreSQL is not installed.

mod doubt;
mod export;
mod failover;
mod faults;
mod given_back;
mod import;
mod import_ends;
mod import_faults;
mod in_flight;
mod login;
mod pooler;
mod replicas;
mod service;
mod tls;
mod turns;

use harness::{Postgres, Proxy};
use task_api::store::Store;
use task_api::store::postgres::Closing;
use task_events::database::DatabaseUrl;

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

/// A replica behind a proxy, with a database of its own.
async fn behind_proxy(database: &str) -> Option<(&'static Postgres, Proxy, Store, Closing)> {
    let server = Postgres::shared().unwrap()?;
    server.create_database(database).unwrap();
    let proxy = Proxy::start(0, server.port(), 1).await.unwrap();
    let url = server.url_at(proxy.port(), database);
    let (store, tasks) = Store::connect(&DatabaseUrl::new(&url), true).await.unwrap();
    Some((server, proxy, store, tasks))
}
