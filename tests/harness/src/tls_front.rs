//! TLS in front of a server that has none: it ends TLS, and passes the bytes on.

use crate::{Certificate, Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A listener on loopback, until it is dropped.
pub struct TlsFront {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    serving: JoinHandle<()>,
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl TlsFront {
    /// Shows that certificate, and passes on to that server.
    pub async fn start(certificate: &Certificate, server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let config = Arc::new(Mutex::new(Arc::new(config(certificate)?)));
        let shown = Arc::clone(&config);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(current(&shown));
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Ok(Self { address, config, serving })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Shows another certificate from now on.
    pub fn show(&self, certificate: &Certificate) -> Result<()> {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config(certificate)?);
        Ok(())
    }
}

fn current(config: &Mutex<Arc<ServerConfig>>) -> Arc<ServerConfig> {
    Arc::clone(&config.lock().unwrap_or_else(PoisonError::into_inner))
}

fn config(certificate: &Certificate) -> Result<ServerConfig> {
    let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(failed)?;
    ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed(format!("no TLS in front: {error}"))
}
