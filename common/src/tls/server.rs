//! TLS for connections that others open: this process shows its certificate, and asks for none.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::files::{Identity, server_config, stamps};
use super::reloaded::Reloaded;
use super::stream::ServerStream;

/// Time between two looks at the files, however many connect.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for a look at the files.
const FILES_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of plain text, and as many encrypted, that wait in a connection for its socket: a record of TLS.
const MAX_BUFFERED: usize = 16 * 1024;

/// As whom this process presents itself to those who connect. Cheap to clone.
#[derive(Clone)]
pub struct TlsServer(Arc<Inner>);

struct Inner {
    identity: Identity,
    variables: (&'static str, &'static str),
    config: Reloaded<ServerConfig>,
    look_interval: Duration,
    looked: Mutex<Instant>,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsServer").field(&self.0.identity).finish()
    }
}

impl TlsServer {
    /// Reads certificate and key, that these variables name. For the start of a process: it blocks. The error names what
    /// is wrong, in one line.
    pub fn load(identity: Identity, variables: (&'static str, &'static str)) -> Result<Self, String> {
        Self::looking_every(LOOK_INTERVAL, identity, variables)
    }

    fn looking_every(
        look_interval: Duration,
        identity: Identity,
        variables: (&'static str, &'static str),
    ) -> Result<Self, String> {
        let looked = Mutex::new(Instant::now());
        let config = Reloaded::load(|| stamps(&identity), || server_config(&identity, variables))?;
        Ok(Self(Arc::new(Inner { identity, variables, config, look_interval, looked })))
    }

    /// The handshake, with the certificate as the files had it less than [`LOOK_INTERVAL`] ago; where their disk does not
    /// say in time, as it was before. The caller bounds its time.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<ServerStream> {
        let config = match self.0.is_look_due() {
            false => self.0.config.current(),
            true => {
                let inner = Arc::clone(&self.0);
                let refreshed = tokio::task::spawn_blocking(move || inner.refreshed());
                match timeout(FILES_TIMEOUT, refreshed).await {
                    Ok(config) => config.map_err(io::Error::other)?,
                    Err(_) => self.0.config.current(),
                }
            }
        };
        let acceptor = TlsAcceptor::from(config);
        let limited = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(MAX_BUFFERED)));
        limited.await.map(|stream| ServerStream::Tls(Box::new(stream)))
    }
}

impl Inner {
    /// Whether this connection is the one that looks at the files.
    fn is_look_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = looked.elapsed() >= self.look_interval;
        if is_due {
            *looked = Instant::now();
        }
        is_due
    }

    fn refreshed(&self) -> Arc<ServerConfig> {
        let identity = &self.identity;
        let certificate = identity.certificate.display();
        self.config.refreshed(&certificate, || stamps(identity), || server_config(identity, self.variables))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use harness::{Authority, Certificate, Validity};
    use tempfile::tempdir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::{Tls, TlsFiles, TlsVariables};
    use super::*;

    const VARIABLES: (&str, &str) = ("CERTIFICATE_FILE", "KEY_FILE");

    fn identity(certificate: &Certificate, folder: &Path) -> Identity {
        let (certificate, key) = certificate.write(folder, "server").unwrap();
        Identity { certificate, key }
    }

    /// A byte from the server to a client that trusts this CA, or why there is none.
    async fn greet(server: &TlsServer, ca: &Path) -> Result<u8, String> {
        static CA: TlsVariables = TlsVariables { ca: "CA_FILE", identity: None };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = Tls::load(TlsFiles { ca: Some(ca.to_owned()), identity: None, variables: &CA }).unwrap();
        let serving = async {
            let mut stream = server.accept(listener.accept().await.unwrap().0).await.ok()?;
            stream.write_u8(7).await.ok()?;
            stream.shutdown().await.ok()
        };
        let asking = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = client.connect(stream, "localhost").await.map_err(|error| error.to_string())?;
            stream.read_u8().await.map_err(|error| error.to_string())
        };
        tokio::join!(serving, asking).1
    }

    #[tokio::test]
    async fn a_certificate_that_is_replaced_is_shown_from_the_next_look_on() {
        let folder = tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| Authority::new(name).unwrap());
        let [old_ca, new_ca] = [("old.crt", &old), ("new.crt", &new)].map(|(name, authority)| {
            let path = folder.path().join(name);
            harness::replace(&path, authority.certificate()).unwrap();
            path
        });
        let issued =
            |authority: &Authority| authority.issue("server", &["localhost"], Validity::Valid).unwrap();
        let files = identity(&issued(&old), folder.path());
        let server = TlsServer::looking_every(Duration::ZERO, files.clone(), VARIABLES).unwrap();
        let seldom = TlsServer::looking_every(Duration::MAX, files.clone(), VARIABLES).unwrap();
        assert_eq!(greet(&server, &old_ca).await, Ok(7));
        assert!(greet(&server, &new_ca).await.unwrap_err().contains("signed by no CA that is trusted"));
        // A half of the new pair changes nothing.
        let renewed = issued(&new);
        harness::replace(&files.certificate, &renewed.certificate).unwrap();
        assert_eq!(greet(&server, &old_ca).await, Ok(7));
        harness::replace(&files.key, &renewed.key).unwrap();
        assert_eq!(greet(&server, &new_ca).await, Ok(7));
        assert_eq!(greet(&seldom, &old_ca).await, Ok(7), "it looks no more often than it has to");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_at_the_start() {
        let folder = tempdir().unwrap();
        let authority = Authority::new("ca").unwrap();
        let good =
            identity(&authority.issue("server", &["localhost"], Validity::Valid).unwrap(), folder.path());
        for (file, text, why) in
            [(&good.key, "no key", "KEY_FILE: "), (&good.certificate, "no certificate", "CERTIFICATE_FILE: ")]
        {
            let before = std::fs::read(file).unwrap();
            std::fs::write(file, text).unwrap();
            let refused = TlsServer::load(good.clone(), VARIABLES).unwrap_err();
            assert!(refused.starts_with(why) && !refused.contains('\n'), "{refused}");
            std::fs::write(file, before).unwrap();
        }
        let other = authority.issue("server", &["localhost"], Validity::Valid).unwrap();
        std::fs::write(&good.key, &other.key).unwrap();
        let refused = TlsServer::load(good, VARIABLES).unwrap_err();
        assert!(
            refused.starts_with("CERTIFICATE_FILE and KEY_FILE: they cannot be used together"),
            "{refused}"
        );
    }
}
