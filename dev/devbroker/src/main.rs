//! `devbroker`: a Kafka broker for demos and tests. Never for production.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use devbroker::{Broker, Config};
use task_events::exit::exit_saying;
use task_events::logging::{self, LogFormat};
use tokio::signal::unix::{SignalKind, signal};

/// A Kafka broker for DEMOS AND TESTS. NEVER FOR PRODUCTION: one node, no replication, no
/// security.
#[derive(Parser)]
#[command(name = "devbroker", version)]
struct Args {
    /// Address to listen on
    #[arg(long, env = "DEVBROKER_ADDR", default_value = "127.0.0.1:30092")]
    addr: SocketAddr,
    /// Data folder; made if missing
    #[arg(long, env = "DEVBROKER_DIR", default_value = "./data/devbroker")]
    dir: PathBuf,
    /// Host and port that clients connect to, HOST:PORT [default: the address listened on]
    #[arg(long, env = "DEVBROKER_ADVERTISED", value_parser = host_and_port)]
    advertised: Option<(String, u16)>,
    /// Create missing topics, with one partition, when a client asks for them
    #[arg(long, env = "DEVBROKER_AUTO_CREATE_TOPICS")]
    auto_create_topics: bool,
    /// Let topic configs under `devbroker.` switch faults on, for tests
    #[arg(long, env = "DEVBROKER_FAULTS", hide = true)]
    faults: bool,
    /// Lines to log: error, warn, info, debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log_level: log::LevelFilter,
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("not HOST:PORT")?;
    let port = port.parse().map_err(|error| format!("port: {error}"))?;
    Ok((host.to_owned(), port))
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_saying(&format!("devbroker: {error}"), 1),
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    // As the services log: whoever reads the lines, or does not, stops nothing.
    let output = logging::stdout(LogFormat::Text)?;
    fern::Dispatch::new()
        .level(args.log_level)
        .format(|out, message, record| {
            let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            out.finish(format_args!("{now} {} {message}", record.level()));
        })
        .chain(fern::Output::call(move |record| output.log(format!("{}\n", record.args()).as_bytes())))
        .apply()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut config = Config::new(args.addr, args.dir);
        config.advertised = args.advertised;
        config.auto_create_topics = args.auto_create_topics;
        config.faults = args.faults;
        let broker = Broker::start(config).await?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        log::info!("stopping");
        broker.shutdown().await;
        log::info!("stopped");
        logging::flush();
        Ok(())
    })
}
