//! A password that is replaced while the store runs.

use std::fs;

use harness::Postgres;
use task_api::store::Store;
use task_events::database::DatabaseUrl;

use crate::store::{create, done};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_replaced_in_the_file_counts_without_a_restart() {
    let Some(server) = Postgres::start("-c fsync=off").unwrap() else { return };
    server
        .sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'first'; GRANT CREATE ON DATABASE postgres TO app")
        .unwrap();
    server.set_login_rules("host all all 127.0.0.1/32 scram-sha-256").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let port = server.port();
    let replace = |password: &str| {
        let new = folder.path().join("new");
        fs::write(&new, format!("postgres://app:{password}@127.0.0.1:{port}/postgres\n")).unwrap();
        fs::rename(new, &file).unwrap();
    };
    replace("first");
    let (store, _tasks) = Store::connect(&DatabaseUrl::in_file(&file).unwrap(), true).await.unwrap();
    done(&store, create("with the first password")).await;

    // The connections that are there end, and new ones are refused.
    server.sql("postgres", "ALTER ROLE app PASSWORD 'second'").unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    server.sql("postgres", end).unwrap();
    eventually("the former password is refused", async || {
        store.mutate(create("with no password that counts")).await.is_err()
    })
    .await;
    replace("second");
    eventually("the new password counts", async || {
        store.mutate(create("with the second password")).await.is_ok()
    })
    .await;
}
