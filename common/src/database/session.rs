//! A connection to the database, which ends with its value.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::error::DatabaseError;

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
}

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
    /// Drops it while something may run on it: the server is asked to cancel that.
    pub fn abandon(self) {
        let cancel = self.client.cancel_token();
        tokio::spawn(async move {
            // A server that does not hear it ends the statement by its own timeout.
            let _ = timeout(CANCEL_TIMEOUT, cancel.cancel_query(NoTls)).await;
            drop(self);
        });
    }
}

/// Connects. Notifications wake `notified`.
pub async fn connect(config: &Config, notified: Option<Arc<Notify>>) -> Result<Session, DatabaseError> {
    let connected = timeout(CONNECT_TIMEOUT, open(config, notified)).await;
    connected.unwrap_or_else(|_| Err(DatabaseError::timeout("connect")))
}

async fn open(config: &Config, notified: Option<Arc<Notify>>) -> Result<Session, DatabaseError> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            match (message, &notified) {
                (AsyncMessage::Notification(_), Some(notified)) => notified.notify_one(),
                (AsyncMessage::Notice(notice), _) => log::debug!("the database reports: {notice}"),
                _ => {}
            }
        }
    });
    let session = Session { client, driver };
    let ms = STATEMENT_TIMEOUT.as_millis();
    // Not as parameters of the connection, which PgBouncer refuses. All statements are short, and read by an index or
    // few rows: compiling them takes longer than they do, and statistics of a queue are always of another time.
    let settings = format!(
        "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; SET lock_timeout = 5000; \
         SET client_connection_check_interval = 1000; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
         SET tcp_keepalives_count = 3; SET tcp_user_timeout = 15000; SET jit = off; SET enable_bitmapscan = off; \
         SET enable_seqscan = off"
    );
    session.batch_execute(&settings).await?;
    Ok(session)
}
