//! A connection to the database, which ends with its value.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use super::encryption::Encryption;
use super::endpoint::Endpoint;
use super::error::DatabaseError;
use super::hosts::Connect;
use crate::tls::Tls;

/// After this the server ends a statement, and a transaction in which nothing happens.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for all of a connection: several hosts, the login, the settings.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to ask the server to cancel what runs.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection. Dropped, it is closed, whatever runs on it.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    tls: Option<Tls>,
    server: ServerProcess,
}

/// A process of a server: another one after a restart, and on another machine after a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerProcess(Option<DateTime<Utc>>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(…)")
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// To whom it was made.
    pub fn server(&self) -> ServerProcess {
        self.server
    }

    /// Drops it while something may run on it: the server is asked to cancel that.
    pub fn abandon(self) {
        let (cancel, tls) = (self.client.cancel_token(), self.tls.clone());
        tokio::spawn(async move {
            // A server that does not hear it ends the statement by its own timeout.
            let cancelled = async {
                match tls {
                    Some(tls) => cancel.cancel_query(Encryption(tls)).await,
                    None => cancel.cancel_query(NoTls).await,
                }
            };
            let _ = timeout(CANCEL_TIMEOUT, cancelled).await;
            drop(self);
        });
    }
}

/// Connects. Notifications wake `notified`.
pub async fn connect(endpoint: &Endpoint, notified: Option<Arc<Notify>>) -> Result<Session, DatabaseError> {
    let connected = timeout(CONNECT_TIMEOUT, open(endpoint, notified)).await;
    connected.unwrap_or_else(|_| Err(DatabaseError::timeout("connect")))
}

/// Runs a connection until it ends.
async fn drive<T>(mut connection: Connection<Socket, T>, notified: Option<Arc<Notify>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        match (message, &notified) {
            (AsyncMessage::Notification(_), Some(notified)) => notified.notify_one(),
            (AsyncMessage::Notice(notice), _) => log::debug!("the database reports: {notice}"),
            _ => {}
        }
    }
}

async fn open(endpoint: &Endpoint, notified: Option<Arc<Notify>>) -> Result<Session, DatabaseError> {
    let login = match &endpoint.login {
        Some(file) => Some(file.current().await),
        None => None,
    };
    let log_in: &Connect<'_, Session> = &|config| {
        let config = login.as_ref().map_or_else(|| config.clone(), |login| login.apply(config));
        let (tls, notified) = (endpoint.tls.clone(), notified.clone());
        Box::pin(async move { log_in(&config, tls, notified).await })
    };
    endpoint.hosts.first_of(log_in).await
}

async fn log_in(
    config: &Config,
    tls: Option<Tls>,
    notified: Option<Arc<Notify>>,
) -> Result<Session, DatabaseError> {
    let (client, driver) = match &tls {
        Some(tls) => {
            let (client, connection) = config.connect(Encryption(tls.clone())).await?;
            (client, tokio::spawn(drive(connection, notified)))
        }
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            (client, tokio::spawn(drive(connection, notified)))
        }
    };
    let mut session = Session { client, driver, tls, server: ServerProcess::default() };
    let ms = STATEMENT_TIMEOUT.as_millis();
    // Not as parameters of the connection, which PgBouncer refuses. All statements are short, and read by an index or
    // few rows: compiling them takes longer than they do, and statistics of a queue are always of another time.
    let settings = format!(
        "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; SET lock_timeout = 5000; \
         SET client_connection_check_interval = 1000; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
         SET tcp_keepalives_count = 3; SET tcp_user_timeout = 15000; SET jit = off; SET enable_bitmapscan = off; \
         SET enable_seqscan = off"
    );
    let (set, server) = tokio::join!(
        biased;
        session.batch_execute(&settings),
        session.query_typed("SELECT pg_postmaster_start_time()", &[]),
    );
    set?;
    session.server = ServerProcess(server?.first().map(|row| row.get(0)));
    Ok(session)
}
