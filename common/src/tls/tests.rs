//! Against a server that the test plays, with certificates of authorities of its own.

use std::fs;
use std::path::PathBuf;

use harness::{Authority, Certificate, Validity};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const VARIABLES: TlsVariables =
    TlsVariables { ca: "CA_FILE", identity: Some(("CERTIFICATE_FILE", "KEY_FILE")) };

/// A folder of the client's files.
struct Files(TempDir);

impl Files {
    fn new(ca: &Authority) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        harness::replace(&files.ca(), ca.certificate()).unwrap();
        files
    }

    fn ca(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }

    fn tls(&self, identity: Option<&Certificate>) -> Tls {
        Tls::load(self.files(identity)).unwrap()
    }

    fn files(&self, identity: Option<&Certificate>) -> TlsFiles {
        let identity = identity.map(|identity| {
            let (certificate, key) = identity.write(self.0.path(), "user").unwrap();
            Identity { certificate, key }
        });
        TlsFiles { ca: Some(self.ca()), identity, variables: &VARIABLES }
    }
}

fn server_config(certificate: &Certificate, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = processor::provider().unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.certificate().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// A server that echoes a byte on each connection, for as long as the test runs.
async fn serve(config: Arc<ServerConfig>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if let Ok(byte) = stream.read_u8().await {
                    let _ = stream.write_u8(byte).await;
                    let _ = stream.flush().await;
                }
            });
        }
    });
    address
}

/// A byte there and back, or why not.
async fn exchange(tls: &Tls, server: std::net::SocketAddr, host: &str) -> Result<(), String> {
    let stream = TcpStream::connect(server).await.unwrap();
    let mut stream = tls.connect(stream, host).await.map_err(|error| error.to_string())?;
    let echoed = async {
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    match echoed.await {
        Ok(byte) => {
            assert_eq!(byte, 7);
            Ok(())
        }
        Err(error) if is_certificate_alert(&error) => Err(format!("this client's certificate: {error}")),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn a_server_is_verified_by_ca_name_and_time() {
    let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
    let files = Files::new(&ours);
    let tls = files.tls(None);
    for (authority, hosts, validity, host, why) in [
        (&ours, "localhost", Validity::Valid, "localhost", ""),
        (&ours, "127.0.0.1", Validity::Valid, "127.0.0.1", ""),
        (&ours, "::1", Validity::Valid, "[::1]", ""),
        (&ours, "*.svc.example", Validity::Valid, "kafka.svc.example", ""),
        (
            &other,
            "localhost",
            Validity::Valid,
            "localhost",
            "no CA that is trusted here: give the CA that signed it by CA_FILE",
        ),
        (&ours, "kafka.example", Validity::Valid, "localhost", "not for localhost but for kafka.example"),
        (&ours, "localhost", Validity::Valid, "127.0.0.1", "not for 127.0.0.1"),
        (&ours, "localhost", Validity::Expired, "localhost", "expired on 2021-01-01"),
    ] {
        let certificate = authority.issue("broker", &[hosts], validity).unwrap();
        let server = serve(server_config(&certificate, None)).await;
        match exchange(&tls, server, host).await {
            Ok(()) => assert_eq!(why, "", "{hosts} {host}"),
            Err(error) => assert!(!why.is_empty() && error.contains(why), "{hosts} {host}: {error}"),
        }
    }
    let server = serve(server_config(&ours.issue("x", &["localhost"], Validity::Valid).unwrap(), None)).await;
    assert!(exchange(&tls, server, "a b").await.unwrap_err().contains("no host name"));
}

/// A resumed session would show no certificate, so that the end of one is not noticed.
#[tokio::test]
async fn a_server_is_verified_again_at_each_connection() {
    let ours = Authority::new("ours").unwrap();
    let tls = Files::new(&ours).tls(None);
    let certificate = ours.issue("broker", &["localhost"], Validity::Valid).unwrap();
    let server = serve(server_config(&certificate, None)).await;
    for _ in 0..3 {
        let stream = TcpStream::connect(server).await.unwrap();
        let mut stream = tls.connect(stream, "localhost").await.unwrap();
        // Tickets come before it.
        stream.write_u8(7).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 7);
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_listener_without_tls_is_named() {
    let tls = Files::new(&Authority::new("ours").unwrap()).tls(None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // One answers in its own words, the other ends the connection, as Kafka does.
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(listener.accept().await.unwrap());
        let _ = first.read_u8().await;
    });
    assert!(exchange(&tls, address, "localhost").await.unwrap_err().contains("does not speak TLS"));
    assert!(exchange(&tls, address, "localhost").await.unwrap_err().contains("a listener without TLS"));
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_is_asked_for_one() {
    let (servers, users) = (Authority::new("servers").unwrap(), Authority::new("users").unwrap());
    let certificate = servers.issue("broker", &["localhost"], Validity::Valid).unwrap();
    let server = serve(server_config(&certificate, Some(&users))).await;
    let files = Files::new(&servers);
    let user = users.issue("task-api", &[], Validity::Valid).unwrap();
    assert_eq!(exchange(&files.tls(Some(&user)), server, "localhost").await, Ok(()));
    for refused in [
        None,
        Some(servers.issue("task-api", &[], Validity::Valid).unwrap()),
        Some(users.issue("task-api", &[], Validity::Expired).unwrap()),
    ] {
        let error = exchange(&files.tls(refused.as_ref()), server, "localhost").await.unwrap_err();
        assert!(error.contains("this client's certificate"), "{error}");
    }
}

#[tokio::test]
async fn files_that_change_are_read_again_and_those_that_cannot_be_used_change_nothing() {
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    let serving = async |authority: &Authority| {
        serve(server_config(&authority.issue("broker", &["localhost"], Validity::Valid).unwrap(), None)).await
    };
    let (before, after) = (serving(&old).await, serving(&new).await);
    let files = Files::new(&old);
    let tls = files.tls(None);
    assert_eq!(exchange(&tls, before, "localhost").await, Ok(()));
    assert!(exchange(&tls, after, "localhost").await.is_err());

    for unusable in [
        "",
        "-----BEGIN CERTIFICATE-----\nMIIB",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        harness::replace(&files.ca(), unusable).unwrap();
        assert_eq!(exchange(&tls, before, "localhost").await, Ok(()), "{unusable:?}");
    }
    fs::remove_file(files.ca()).unwrap();
    assert_eq!(exchange(&tls, before, "localhost").await, Ok(()));
    // What could not be used is read again at each connection, and is there now.
    harness::replace(&files.ca(), new.certificate()).unwrap();
    assert_eq!(exchange(&tls, after, "localhost").await, Ok(()));
    assert!(exchange(&tls, before, "localhost").await.is_err(), "a CA that is gone is not trusted");
}

#[tokio::test]
async fn each_certificate_in_a_folder_counts_also_one_that_comes_later() {
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    let files = Files::new(&old);
    let folder = TlsFiles { ca: Some(files.0.path().to_owned()), identity: None, variables: &VARIABLES };
    let tls = Tls::load(folder).unwrap();
    let certificate = new.issue("broker", &["localhost"], Validity::Valid).unwrap();
    let server = serve(server_config(&certificate, None)).await;
    assert!(exchange(&tls, server, "localhost").await.is_err());
    // As Strimzi names them while it renews its CA; a key store and a password lie beside.
    harness::replace(&files.0.path().join("ca-2026-01-01T00-00-00Z.crt"), new.certificate()).unwrap();
    fs::write(files.0.path().join("ca.password"), "x").unwrap();
    assert_eq!(exchange(&tls, server, "localhost").await, Ok(()));
}

#[test]
fn what_is_wrong_with_a_file_is_said_at_the_start() {
    let ours = Authority::new("ours").unwrap();
    let files = Files::new(&ours);
    let identity = ours.issue("a", &[], Validity::Valid).unwrap();
    let other = ours.issue("b", &[], Validity::Valid).unwrap();
    let wrong = |files: TlsFiles| Tls::load(files).unwrap_err();
    let mismatched = Certificate { key: other.key, ..identity.clone() };
    assert!(
        wrong(files.files(Some(&mismatched)))
            .contains("CERTIFICATE_FILE and KEY_FILE: they cannot be used together")
    );
    let keyless = Certificate { key: identity.certificate.clone(), ..identity.clone() };
    assert!(wrong(files.files(Some(&keyless))).contains("KEY_FILE: "));
    let swapped = Certificate { certificate: identity.key.clone(), key: identity.key };
    let line = wrong(files.files(Some(&swapped)));
    assert!(line.contains("CERTIFICATE_FILE: ") && line.contains("has no certificate in PEM"), "{line}");
    let missing = TlsFiles { ca: Some("/nowhere".into()), identity: None, variables: &VARIABLES };
    assert!(wrong(missing).contains("CA_FILE: /nowhere: No such file"));
    let empty = tempfile::tempdir().unwrap();
    let empty = TlsFiles { ca: Some(empty.path().to_owned()), identity: None, variables: &VARIABLES };
    assert!(wrong(empty).contains("no file *.crt or *.pem"));
}
