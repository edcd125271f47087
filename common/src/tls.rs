//! TLS for the connections that this project opens, and for those that it takes ([`TlsServer`]), by rustls with the provider graviola: Rust and inline assembly, no C.
//!
//! # Invariants
//!
//! 1. *Verified or no connection.* The chain of a peer that is dialled leads to a trusted CA, is valid now, and names that host, at each connection: no session is resumed. There is no setting that skips this, and nothing falls back to plain text.
//! 2. *What can be known at the start is checked there*: the processor's features, that the files can be read, that key
//!    and certificate belong together.
//! 3. *Files that change are read again*, before the next connection, by [`TlsServer`] once a second at most, as
//!    Kubernetes and cert-manager replace them. Where the new ones cannot be used, the former ones stay in use, one
//!    warning says why, and the next look reads them again.

mod binding;
mod failure;
mod files;
mod processor;
mod reloaded;
mod server;
mod stream;
mod validity;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

use reloaded::Reloaded;

pub use binding::channel_binding;
pub use failure::{TlsError, is_certificate_alert};
pub use files::{Identity, TlsFiles, TlsVariables};
pub use server::TlsServer;
pub use stream::{ClientStream, MaybeTls, ServerStream};

/// Whom this process trusts and as whom it presents itself. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    config: Reloaded<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files. For the start of a process: it blocks. The error names what is wrong, in one line.
    pub fn load(files: TlsFiles) -> Result<Self, String> {
        let config = Reloaded::load(|| files.stamps(), || files.client_config())?;
        Ok(Self(Arc::new(Inner { files, config })))
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
    pub async fn connect<S>(&self, stream: S, host: &str) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
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
    fn refreshed(&self) -> Arc<ClientConfig> {
        self.config.refreshed(&self.files, || self.files.stamps(), || self.files.client_config())
    }
}

#[cfg(test)]
mod tests;
