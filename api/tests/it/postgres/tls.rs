//! TLS to a real server: verified or no connection, and one line says what is wrong.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::{Authority, Certificate, Postgres, Validity};
use task_api::store::Store;
use task_events::database::{DatabaseError, DatabaseUrl, Session, connect};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::store::{create, done};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(30);

/// A server of its own with a certificate of `authority`, and a folder with that one's.
struct World {
    server: Postgres,
    authority: Authority,
    folder: TempDir,
}

impl World {
    fn start() -> Option<Self> {
        let server = Postgres::start("-c fsync=off").unwrap()?;
        let authority = Authority::new("the right one").unwrap();
        let folder = tempfile::tempdir().unwrap();
        harness::replace(&folder.path().join("ca.crt"), authority.certificate()).unwrap();
        let world = Self { server, authority, folder };
        world.show(&world.issue("server", &["127.0.0.1"], Validity::Valid));
        Some(world)
    }

    fn issue(&self, name: &str, hosts: &[&str], validity: Validity) -> Certificate {
        self.authority.issue(name, hosts, validity).unwrap()
    }

    fn show(&self, certificate: &Certificate) {
        self.server.serve_tls(certificate, self.authority.certificate()).unwrap();
    }

    fn url(&self, user: &str, more: &str) -> String {
        let (port, ca) = (self.server.port(), self.folder.path().join("ca.crt"));
        let ca = ca.display();
        format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={ca}{more}")
    }

    fn client(&self, certificate: &Certificate) -> String {
        let (certificate, key) = certificate.write(self.folder.path(), "client").unwrap();
        let shown = |path: &Path| path.display().to_string();
        format!("&sslcert={}&sslkey={}", shown(&certificate), shown(&key))
    }
}

async fn open(url: &str) -> Result<Session, DatabaseError> {
    connect(&DatabaseUrl::new(url).endpoint().await?, None).await
}

async fn is_encrypted(session: &Session) -> bool {
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    session.query_typed(encrypted, &[]).await.unwrap()[0].get(0)
}

/// The error's text, which is one line and shows no password.
async fn refusal(url: &str) -> String {
    let error = open(url).await.unwrap_err().to_string();
    assert!(!error.contains('\n') && !error.contains("hush"), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_notifications_and_cancellation_go_through_tls() {
    let Some(world) = World::start() else { return };
    // Whoever is not `postgres` gets no connection in plain text, and a login that is bound to the channel.
    world.server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'hush' CREATEDB").unwrap();
    world.server.sql("postgres", "GRANT CREATE ON DATABASE postgres TO app").unwrap();
    world.server.set_login_rules("hostssl all all 127.0.0.1/32 scram-sha-256").unwrap();
    let url = world.url("app:hush", "&channel_binding=require");
    let (store, _tasks) = Store::connect(&DatabaseUrl::new(&url), true).await.unwrap();
    let made = done(&store, create("over TLS")).await;
    assert_eq!(store.task(made.id).await.unwrap().unwrap().title, made.title);

    let notified = Arc::new(Notify::new());
    let endpoint = DatabaseUrl::new(&url).endpoint().await.unwrap();
    let session = connect(&endpoint, Some(Arc::clone(&notified))).await.unwrap();
    assert!(is_encrypted(&session).await);
    session.batch_execute("LISTEN tls").await.unwrap();
    world.server.sql("postgres", "NOTIFY tls").unwrap();
    timeout(SOON, notified.notified()).await.expect("a notification");

    // Nothing but a cancel request ends it within the time.
    let endless = "SET statement_timeout = 0; SET client_connection_check_interval = 0; SELECT pg_sleep(600)";
    let sleeping = async || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SET %pg_sleep%' AND state = 'active'";
        world.server.sql("postgres", sql).unwrap()
    };
    {
        let running = session.batch_execute(endless);
        tokio::pin!(running);
        let runs = eventually("the statement runs", async || sleeping().await == "1");
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = runs => {}
        }
    }
    session.abandon();
    eventually("the statement is cancelled", async || sleeping().await == "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_right_one_is_refused_in_one_line() {
    let Some(world) = World::start() else { return };
    let url = world.url("postgres:hush", "");
    assert!(is_encrypted(&open(&url).await.unwrap()).await);
    for mode in ["require", "verify-ca"] {
        // Each mode checks the name, too.
        let weaker = url.replace("verify-full", mode);
        assert!(is_encrypted(&open(&weaker).await.unwrap()).await);
    }
    let other = Authority::new("another one").unwrap();
    for (certificate, part) in [
        (other.issue("server", &["127.0.0.1"], Validity::Valid).unwrap(), "give the CA"),
        (world.issue("server", &["127.0.0.1"], Validity::Expired), "has expired"),
        (world.issue("server", &["db.test"], Validity::Valid), "but for db.test"),
    ] {
        world.show(&certificate);
        for mode in ["require", "verify-ca", "verify-full"] {
            let refused = refusal(&url.replace("verify-full", mode)).await;
            assert!(refused.starts_with("TLS: ") && refused.contains(part), "{mode}: {refused}");
        }
        let store = Store::connect(&DatabaseUrl::new(&url), true).await.err().unwrap().to_string();
        assert!(store.contains(part), "{store}");
    }
    // The right one again: nothing is kept of the refusals.
    world.show(&world.issue("server", &["127.0.0.1"], Validity::Valid));
    assert!(is_encrypted(&open(&url).await.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_gets_no_login_in_plain_text() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    harness::replace(&ca, Authority::new("a").unwrap().certificate()).unwrap();
    let url = format!(
        "{}?sslmode=require&sslrootcert={}&application_name=in_plain_text",
        server.url("postgres").replace("postgres@", "postgres:hush@"),
        ca.display()
    );
    let refused = refusal(&url).await;
    assert!(refused.contains("does not speak it") && refused.contains("switch ssl on"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_known_by_its_certificate_and_one_that_is_not_accepted_is_named() {
    let Some(world) = World::start() else { return };
    world.server.sql("postgres", "CREATE ROLE app LOGIN").unwrap();
    world.server.set_login_rules("hostssl all app 127.0.0.1/32 cert").unwrap();
    let right = world.client(&world.issue("app", &["app"], Validity::Valid));
    assert!(is_encrypted(&open(&world.url("app", &right)).await.unwrap()).await);
    let refused = refusal(&world.url("app", "")).await;
    assert!(refused.contains("certificate"), "{refused}");
    let other = Authority::new("another one").unwrap();
    let wrong = world.client(&other.issue("app", &["app"], Validity::Valid).unwrap());
    let refused = refusal(&world.url("app", &wrong)).await;
    assert!(
        refused.contains("refuses this client's certificate") && refused.contains("sslcert"),
        "{refused}"
    );
    let missing = format!("{right}.none");
    let refused = refusal(&world.url("app", &missing)).await;
    assert!(refused.contains("sslkey") && refused.contains("client.key.none"), "{refused}");
}
