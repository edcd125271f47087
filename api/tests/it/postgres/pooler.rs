//! PgBouncer in transaction mode between the replicas and the database: each transaction may have another connection.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Postgres, free_port};
use task_api::relay::Relay;
use task_api::store::{Filter, IdempotencyKey, Outcome, Store};
use task_api::task::Change;
use task_events::database::DatabaseUrl;
use task_events::shutdown;

use crate::relay::Cluster;
use crate::store::{change, create, done, load};
use crate::support::{TOPIC, eventually};

/// By its path: ordinary users do not have that folder in theirs.
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

struct Pooler(Child);

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, port: u16, server: &Postgres) -> Pooler {
    let ini = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\n\
         auth_type=any\nadmin_users=postgres\npool_mode=transaction\ndefault_pool_size=6\nmax_client_conn=200\nunix_socket_dir=\n",
        server.port()
    );
    let ini = ini.replace("* = host", "* = user=postgres host");
    let path = dir.join("pgbouncer.ini");
    std::fs::write(&path, ini).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        // As root it refuses to run.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", PGBOUNCER]);
        command
    } else {
        Command::new(PGBOUNCER)
    };
    command.arg("-q").arg(&path);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Pooler(command.spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_work_behind_a_pooler_in_transaction_mode() {
    let Some(server) = Postgres::shared().unwrap() else { return };
    if !Path::new(PGBOUNCER).exists() {
        assert!(std::env::var_os("CI").is_none(), "pgbouncer is not installed");
        eprintln!("left out: pgbouncer is not installed (Debian: apt-get install pgbouncer)");
        return;
    }
    server.create_database("pooled").unwrap();
    let dir = harness::server_folder("pgbouncer-").unwrap();
    let port = free_port().unwrap();
    let _pooler = start(dir.path(), port, server);
    let url = DatabaseUrl::new(&format!("postgres://postgres@127.0.0.1:{port}/pooled"));
    let is_up = || async { Store::connect(&url, true).await.is_ok() };
    eventually("the pooler answers", is_up).await;
    let (one, _one_tasks) = Store::connect(&url, true).await.unwrap();
    let (other, _other_tasks) = Store::connect(&url, true).await.unwrap();
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let (drain, draining) = shutdown::channel();
    let relay = tokio::spawn(Relay::new(one.clone(), cluster.kafka.clone(), TOPIC).run(draining));
    for store in [&one, &other] {
        load(store, 16, 20, move |store, client, number| async move {
            let mut keyed = create("t");
            let key = format!("{client} {number}");
            keyed.idempotency = Some(IdempotencyKey { key, fingerprint: "aa".to_owned() });
            match store.mutate(keyed).await.unwrap() {
                Outcome::Done(task) => {
                    done(&store, change(Change::Complete(task.id))).await;
                }
                Outcome::Repeated(_) => {}
                other => panic!("{other:?}"),
            }
        })
        .await;
    }
    assert_eq!(other.list(Filter::default(), None, 1_000).await.unwrap().tasks.len(), 16 * 20);
    let is_empty = || async { other.outbox_after(0, 1).await.unwrap().is_empty() };
    eventually("all events are published", is_empty).await;
    assert_eq!(cluster.records(0).await.len(), 2 * 16 * 20);
    drain.stop();
    relay.await.unwrap();
    cluster.broker.shutdown().await;
}
