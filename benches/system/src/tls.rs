//! TLS to Apache Kafka, with a certificate of each side, for a measurement against plain connections.

use harness::{Authority, Broker, Error, Program, Result, SecureListener, Validity, World, replace};

/// What it takes: certificates, and the listener of each broker that is started.
pub struct Tls {
    folder: tempfile::TempDir,
    listener: SecureListener,
}

impl Tls {
    /// Makes the certificates.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| Error::file(&std::env::temp_dir(), error))?;
        let authority = Authority::new("bench")?;
        replace(&folder.path().join("ca.crt"), authority.certificate())?;
        let broker = authority.issue("broker", &["localhost"], Validity::Valid)?;
        replace(&folder.path().join("broker.pem"), &broker.key_store())?;
        authority.issue("user", &[], Validity::Valid)?.write(folder.path(), "user")?;
        Ok(Self { folder, listener: SecureListener::new("SECURE", "SSL")? })
    }

    /// A broker that speaks TLS to who wants it, with the topics.
    pub async fn world(&self) -> Result<World> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (store, ca) = (path("broker.pem"), path("ca.crt"));
        let settings = [
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &store),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &ca),
            ("listener.name.secure.ssl.client.auth", "required"),
        ];
        let listeners = std::slice::from_ref(&self.listener);
        let broker = Broker::start_kafka_listening(listeners, &settings).await?;
        let broker = broker.ok_or_else(|| Error::failed("--tls needs Apache Kafka: set E2E_BROKER=kafka"))?;
        World::on(broker).await
    }

    /// The program, by that listener.
    pub fn program(&self, program: Program) -> Program {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        program
            .env("KAFKA_BOOTSTRAP_SERVERS", self.listener.address())
            .env("KAFKA_SSL_CA_FILE", path("ca.crt"))
            .env("KAFKA_SSL_CERTIFICATE_FILE", path("user.crt"))
            .env("KAFKA_SSL_KEY_FILE", path("user.key"))
    }
}
