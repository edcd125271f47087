//! TLS for the connections that this crate opens, by rustls with the provider graviola: Rust and inline assembly, no C.
//!
//! # Invariants
//!
//! 1. *Verified or no connection.* The peer's chain leads to a trusted CA, is valid now, and names the host that was
//!    dialled. There is no setting that skips this, and nothing falls back to plain text.
//! 2. *What can be known at the start is checked there*: the processor's features, that the files can be read, that key
//!    and certificate belong together.
//! 3. *Files that change are read again*, before the next connection, as Kubernetes and cert-manager replace them.
//!    Where the new ones cannot be used, the former ones stay in use, one warning says why, and each later connection
//!    reads them again.

mod failure;
mod files;
mod processor;
mod validity;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::log_once::LogOnce;
use files::Stamp;

pub use failure::{TlsError, is_certificate_alert};
pub use files::{Identity, TlsFiles, TlsVariables};

/// Whom this process trusts and as whom it presents itself. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    current: Mutex<Arc<ClientConfig>>,
    watch: Mutex<Watch>,
}

/// What the files were when they were last read.
struct Watch {
    stamps: Vec<Stamp>,
    log: LogOnce,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files. For the start of a process: it blocks. The error names what is wrong, in one line.
    pub fn load(files: TlsFiles) -> Result<Self, String> {
        // First, so that a change while they are read is noticed.
        let stamps = files.stamps();
        let current = Mutex::new(Arc::new(files.client_config()?));
        let watch = Mutex::new(Watch { stamps, log: LogOnce::new(module_path!()) });
        Ok(Self(Arc::new(Inner { files, current, watch })))
    }

    /// What a peer that does not accept this client's certificate was shown, and how that is configured.
    pub fn identity_hint(&self) -> String {
        failure::identity_hint(&self.0.files)
    }

    /// Until when the certificate of this process is valid, as its file has it now; none without one. Blocks.
    pub fn identity_valid_until(&self) -> Option<Result<DateTime<Utc>, String>> {
        let identity = self.0.files.identity.as_ref()?;
        let chain = files::certificates(&identity.certificate);
        Some(chain.and_then(|chain| {
            let end = chain.first().and_then(|certificate| validity::not_after(certificate));
            end.ok_or_else(|| format!("{} has no end of its validity", identity.certificate.display()))
        }))
    }

    /// The handshake, on a connection to the host. The caller bounds its time.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, TlsError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| TlsError(format!("'{host}' is no host name that a certificate can have")))?;
        let inner = Arc::clone(&self.0);
        let config = tokio::task::spawn_blocking(move || inner.refreshed()).await;
        let config = config.map_err(|error| TlsError(error.to_string()))?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|error| failure::explain(&error, host, &self.0.files))
    }
}

impl Inner {
    fn current(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The configuration, of files that were read again if they have changed. Where another call is about to read
    /// them, perhaps from a disk that hangs, it is the present one.
    fn refreshed(&self) -> Arc<ClientConfig> {
        let Ok(mut watch) = self.watch.try_lock() else { return self.current() };
        let stamps = self.files.stamps();
        if stamps == watch.stamps {
            return self.current();
        }
        match self.files.client_config() {
            Ok(config) => {
                watch.log.over("the certificates can be used again");
                log::info!("new certificates are in use: {}", self.files);
                watch.stamps = stamps;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(why) => watch.log.warn(&format!(
                "certificates that were replaced cannot be used: {why}; the former ones stay in use until they can"
            )),
        }
        self.current()
    }
}

#[cfg(test)]
mod tests;
