//! Who asks the registry: a user and a password.
//!
//! # Invariants
//!
//! - *A password in a file is read at each call*: one that was replaced counts for the next call, without a restart.
//! - *A disk that hangs costs a call its own time, and one thread*: reads wait for each other.
//! - *It is in no message.*

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::kafka::{Password, Secret};

/// A user, and where the password is. Cheap to clone.
#[derive(Clone)]
pub struct Login {
    name: String,
    secret: Secret,
    reads: Arc<Semaphore>,
}

impl Login {
    /// Of a user with this password.
    pub fn new(name: String, secret: Secret) -> Self {
        Self { name, secret, reads: Arc::new(Semaphore::new(1)) }
    }

    /// The header of a call, or why there is none within that time.
    pub(super) async fn authorization(&self, limit: Duration) -> Result<String, String> {
        let password = match &self.secret {
            Secret::Value(Password(password)) => return Ok(basic(&format!("{}:{password}", self.name))),
            Secret::File(_) => timeout(limit, self.read()).await,
        };
        let late =
            || format!("its file is not read within {} ms: look at the disk or mount", limit.as_millis());
        let password = password.unwrap_or_else(|_| Err(late()));
        let Password(password) = password.map_err(|why| format!("the password cannot be read: {why}"))?;
        Ok(basic(&format!("{}:{password}", self.name)))
    }

    async fn read(&self) -> Result<Password, String> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|error| error.to_string())?;
        let secret = self.secret.clone();
        let read = spawn_blocking(move || {
            let _permit = permit;
            secret.read()
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a user and a password)")
    }
}

/// Basic authentication.
pub(super) fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(user))
}
