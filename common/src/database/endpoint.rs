//! How to connect to a database: the hosts of an address, the files of TLS that it names, and who logs in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::address::DatabaseUrl;
use super::error::DatabaseError;
use super::hosts::Hosts;
use super::login::LoginFile;
use crate::tls::Tls;

/// Time to read the files of TLS.
const FILES_TIMEOUT: Duration = Duration::from_secs(5);

/// How to connect to a database.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(super) hosts: Arc<Hosts>,
    /// None: plain text.
    pub(super) tls: Option<Tls>,
    /// Where the login may be replaced.
    pub(super) login: Option<Arc<LoginFile>>,
}

impl DatabaseUrl {
    /// How to connect, with the files of TLS that it names.
    pub async fn endpoint(&self) -> Result<Endpoint, DatabaseError> {
        let (config, files) = self.target()?;
        let hosts = Arc::new(Hosts::of(&config)?);
        let login = self.file().map(|path| LoginFile::new(path.to_owned(), (config, files.clone())));
        let login = login.map(Arc::new);
        let Some(files) = files else { return Ok(Endpoint { hosts, tls: None, login }) };
        let late = format!("its files of TLS ({files}) are not read in time: look at the disk or mount");
        let loading = tokio::task::spawn_blocking(|| Tls::load(files));
        let loaded = timeout(FILES_TIMEOUT, loading).await.map_err(|_| DatabaseError::address(late))?;
        let tls = loaded.unwrap_or_else(|error| Err(error.to_string())).map_err(DatabaseError::address)?;
        Ok(Endpoint { hosts, tls: Some(tls), login })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_cannot_be_read_are_named() {
        let url = DatabaseUrl::new("postgres://u:hush@h/db?sslmode=verify-full&sslrootcert=/none/ca.crt");
        let error = url.endpoint().await.unwrap_err().to_string();
        assert!(error.contains("sslrootcert") && error.contains("/none/ca.crt"), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}
