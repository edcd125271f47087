//! A broker of the test's own, as a child process.
//!
//! Invariant: a broker is ready when this very process answers. It is distinguished from another on its port, which a test
//! that runs beside this one may have started, by the dev broker's first line and by Apache Kafka's cluster id.

use crate::kafka_tools::{self, kafka_libs};
use crate::topic;
use crate::wire::Wire;
use crate::{Error, Process, Program, Result, eventually, free_port, temporary_folder};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;

/// Apache Kafka needs some 5 s to start, 12 s more after kill -9, and a multiple on a busy machine.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(120);
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The `devbroker` binary.
    Dev,
    /// Apache Kafka.
    Kafka,
}

impl Kind {
    /// As `E2E_BROKER` says.
    pub fn from_env() -> Result<Self> {
        match std::env::var("E2E_BROKER").as_deref() {
            Err(_) | Ok("" | "dev") => Ok(Self::Dev),
            Ok("kafka") => Ok(Self::Kafka),
            Ok(other) => Err(Error::failed(format!("E2E_BROKER={other}: it is dev or kafka"))),
        }
    }
}

/// A listener of an Apache Kafka beside the plain one of all tests. Clients are sent to `localhost`.
#[derive(Debug, Clone)]
pub struct SecureListener {
    /// Its name, in capitals.
    pub name: String,
    /// `SSL`, `SASL_SSL` or another of Kafka's security protocols.
    pub protocol: &'static str,
    /// Where it listens.
    pub port: u16,
}

impl SecureListener {
    /// A listener on a free port.
    pub fn new(name: &str, protocol: &'static str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), protocol, port: free_port()? })
    }

    /// Where clients reach it.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// A running broker with no topics. It and its data are gone when it is dropped.
pub struct Broker {
    kind: Kind,
    port: u16,
    /// The port that clients connect to, where it is another one: a proxy's.
    advertised: u16,
    sign: Sign,
    // Before the folder, so that it is dead when the folder goes.
    process: Process,
    folder: TempDir,
}

impl Broker {
    /// Starts the broker that `E2E_BROKER` names and waits until it answers.
    pub async fn start() -> Result<Self> {
        Self::start_kind(Kind::from_env()?).await
    }

    /// Starts a broker of this kind and waits until it answers.
    pub async fn start_kind(kind: Kind) -> Result<Self> {
        let port = free_port()?;
        Self::start_on(kind, port, port).await
    }

    /// Starts an Apache Kafka with these settings. `None`, written to standard error, where `E2E_BROKER` does
    /// not ask for it: the dev broker has no such settings.
    pub async fn start_kafka_with(settings: &[(&str, &str)]) -> Result<Option<Self>> {
        Self::start_kafka_listening(&[], settings).await
    }

    /// The same with further listeners.
    pub async fn start_kafka_listening(
        listeners: &[SecureListener],
        settings: &[(&str, &str)],
    ) -> Result<Option<Self>> {
        if Kind::from_env()? == Kind::Dev || kafka_tools::kafka_libs().is_none() {
            eprintln!("E2E_BROKER is not kafka: nothing is tried");
            return Ok(None);
        }
        let port = free_port()?;
        Self::start_as(Kind::Kafka, port, port, listeners, settings).await.map(Some)
    }

    /// Starts a broker on `port` that sends its clients to `advertised`, where a proxy listens already.
    pub async fn start_on(kind: Kind, port: u16, advertised: u16) -> Result<Self> {
        Self::start_as(kind, port, advertised, &[], &[]).await
    }

    async fn start_as(
        kind: Kind,
        port: u16,
        advertised: u16,
        listeners: &[SecureListener],
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let folder = temporary_folder()?;
        let sign = match kind {
            Kind::Dev => Sign::Line("devbroker listens on "),
            Kind::Kafka => {
                let node = Node { id: 1, port, advertised, controller: free_port()?, also: listeners };
                let voters = format!("1@127.0.0.1:{}", node.controller);
                let cluster_id = new_cluster_id();
                node.format(folder.path(), &cluster_id, &voters, 1, settings).await?;
                Sign::ClusterId(cluster_id)
            }
        };
        let process = spawn(kind, folder.path(), port, advertised)?;
        let mut broker = Self { kind, port, advertised, sign, process, folder };
        broker.wait_until_ready().await?;
        Ok(broker)
    }

    /// Which broker it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that clients get: `127.0.0.1:PORT`, the same after a restart.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.advertised)
    }

    /// The process, for its output.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end and waits for that.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate(STOP_LIMIT).await
    }

    /// Kills it if it runs, starts it again on its port and its data, and waits until it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_until_ready().await
    }

    /// As [`Broker::restart`], without waiting.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill9();
        self.process = spawn(self.kind, self.folder.path(), self.port, self.advertised)?;
        Ok(())
    }

    /// Pauses it (SIGSTOP): connections stay open, nothing is answered.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    /// Lets it go on after [`Broker::pause`].
    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }

    /// Waits until it answers.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        wait_until_ready(&mut self.process, &self.sign, self.port, self.advertised).await
    }
}

/// What a broker is known by.
pub(crate) enum Sign {
    /// A line that it writes when it listens.
    Line(&'static str),
    /// The id that its folder was formatted with.
    ClusterId(String),
}

/// An id for a new cluster: 16 bytes in base64, which may not begin like an option.
pub(crate) fn new_cluster_id() -> String {
    let mut id = uuid::Uuid::new_v4().into_bytes();
    id[0] &= 0x7f;
    URL_SAFE_NO_PAD.encode(id)
}

/// Waits until a broker that was started answers on the port that clients are sent to.
pub(crate) async fn wait_until_ready(
    process: &mut Process,
    sign: &Sign,
    port: u16,
    advertised: u16,
) -> Result<()> {
    let address = format!("127.0.0.1:{advertised}");
    let ready = async || {
        process.still_runs("before it answered")?;
        // A port that is open first: the client itself would wait longer after each refusal.
        let open = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !open || !is_ready(&address).await {
            return Ok(None);
        }
        let is_its_own = match sign {
            Sign::Line(line) => process.count(line) > 0,
            Sign::ClusterId(id) => cluster_id(port).await.is_some_and(|answered| answered == *id),
        };
        process.still_runs("when another answered")?;
        Ok(is_its_own.then_some(()))
    };
    eventually(&format!("an answer of the broker at {address}"), START_LIMIT, ready).await
}

async fn cluster_id(port: u16) -> Option<String> {
    Wire::connect(&format!("127.0.0.1:{port}")).await.ok()?.cluster_id().await.ok()?
}

async fn is_ready(address: &str) -> bool {
    let Ok(client) = topic::connect(address).await else { return false };
    let topics = tokio::time::timeout(Duration::from_secs(5), Box::pin(client.list_topics())).await;
    matches!(topics, Ok(Ok(_)))
}

fn spawn(kind: Kind, folder: &Path, port: u16, advertised: u16) -> Result<Process> {
    match kind {
        Kind::Dev => {
            let data = folder.join("data").display().to_string();
            let (addr, advertised) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{advertised}"));
            // Tests may switch faults on; see dev/devbroker/src/faults.rs.
            let args = ["--addr", &addr, "--dir", &data, "--advertised", &advertised, "--faults"];
            Program::new("devbroker").args(&args).spawn()
        }
        Kind::Kafka => spawn_kafka("kafka", folder),
    }
}

/// Starts the Apache Kafka whose folder was formatted.
pub(crate) fn spawn_kafka(name: &str, folder: &Path) -> Result<Process> {
    let mut java = kafka_tools::java(&required_libs()?, "512m");
    java.arg("-Dorg.apache.logging.log4j.level=WARN").arg("kafka.Kafka").arg(properties_file(folder));
    Process::spawn(name, &mut java)
}

fn required_libs() -> Result<PathBuf> {
    kafka_libs().ok_or_else(|| {
        Error::failed("E2E_BROKER=kafka needs KAFKA_LIBS, the folder that tests/e2e/kafka/fetch filled with Apache Kafka")
    })
}

fn properties_file(folder: &Path) -> PathBuf {
    folder.join("server.properties")
}

/// One Apache Kafka, broker and controller, of one or several.
pub(crate) struct Node<'a> {
    pub(crate) id: i32,
    pub(crate) port: u16,
    /// The port that clients connect to.
    pub(crate) advertised: u16,
    pub(crate) controller: u16,
    /// Further listeners.
    pub(crate) also: &'a [SecureListener],
}

impl Node<'_> {
    /// Writes its configuration and makes its log folder. `cluster_id`: the same for all nodes. `replicas`: of each topic that says nothing else.
    pub(crate) async fn format(
        &self,
        folder: &Path,
        cluster_id: &str,
        voters: &str,
        replicas: usize,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let Self { id, port, advertised, controller, also } = self;
        let (mut listens, mut advertises, mut protocols) = (String::new(), String::new(), String::new());
        for SecureListener { name, protocol, port } in *also {
            listens.push_str(&format!(",{name}://127.0.0.1:{port}"));
            advertises.push_str(&format!(",{name}://localhost:{port}"));
            protocols.push_str(&format!(",{name}:{protocol}"));
        }
        let min_isr = replicas.div_ceil(2);
        let settings: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listens}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}{advertises}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
             log.dirs={}\n\
             # Kafka's own default, so that a topic that is asked for by accident is noticed.\n\
             auto.create.topics.enable=true\n\
             # Internal topics have few partitions to start quickly.\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={min_isr}\n\
             offsets.topic.replication.factor={replicas}\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={min_isr}\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={min_isr}\n\
             share.coordinator.state.topic.num.partitions=1\n\
             group.initial.rebalance.delay.ms=0\n\
             # Compaction within seconds: a segment is closed by the first write after a second, and\n\
             # cleaned as soon as it is closed.\n\
             log.roll.ms=1000\n\
             log.cleaner.backoff.ms=200\n\
             log.cleaner.min.cleanable.ratio=0.001\n\
             log.cleaner.dedupe.buffer.size=4194304\n\
             log.segment.delete.delay.ms=500\n\
             log.retention.check.interval.ms=1000\n\
             {settings}",
            folder.join("data").display()
        );
        let file = properties_file(folder);
        std::fs::write(&file, properties).map_err(|error| Error::file(&file, error))?;

        let mut java = kafka_tools::java(&required_libs()?, "128m");
        java.args(["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"]).arg(file);
        let mut format = Process::spawn("kafka storage format", &mut java)?;
        let status = format.wait_exit(START_LIMIT).await?;
        if status.success() {
            return Ok(());
        }
        Err(Error::process("kafka storage format", format!("ended with {status}: {:?}", format.lines())))
    }
}
