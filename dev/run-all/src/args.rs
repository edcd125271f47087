//! Flags and environment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use task_events::api_token::ApiTokenArgs;
use task_events::config::host_port;
use task_events::version::version;

/// Runs the whole of task-events on this machine, until Ctrl-C: a dev broker, the API and the consumers.
///
/// State is kept in ./data and ./audit.log. Other variables of the services (LOG_LEVEL, LEASE_MS, …) are
/// passed on to them.
#[derive(Debug, Parser)]
#[command(name = "run-all", version = version())]
pub struct Args {
    /// Start without the tour, and stay up
    #[arg(long, conflicts_with = "exit_after_tour")]
    pub no_tour: bool,
    /// Stop everything after the tour
    #[arg(long)]
    pub exit_after_tour: bool,
    /// Open the live page in the browser once everything is up
    #[arg(long, conflicts_with = "exit_after_tour")]
    pub open: bool,
    /// Write events as Avro, with the Schema Registry that SCHEMA_REGISTRY_URL names, or with the one that
    /// `cargo xtask registry` has fetched
    #[arg(long)]
    pub avro: bool,
    /// Two replicas of the API on a PostgreSQL, and three instances of the notification and of the audit service, which
    /// share six partitions.
    /// PostgreSQL is the one that DATABASE_URL names, or one that is installed here. State is kept in ./data/scaled
    #[arg(long)]
    pub scaled: bool,
    /// With --scaled: the folder of initdb and postgres [default: PATH, then /usr/lib/postgresql/*/bin]
    #[arg(long, value_name = "DIR", requires = "scaled")]
    pub postgres_programs: Option<PathBuf>,
    /// With --scaled: port on localhost of the PostgreSQL that is started
    #[arg(long, value_name = "PORT", default_value = "30432", value_parser = clap::value_parser!(u16).range(1..))]
    pub postgres_port: u16,
    /// First delete what earlier runs left in ./data and ./audit.log; with --scaled, in ./data/scaled
    #[arg(long)]
    pub fresh: bool,
    /// Folder of binaries to run, instead of building them
    #[arg(long, value_name = "DIR")]
    pub binaries: Option<PathBuf>,
    /// Kafka brokers to use, host:port, several with commas [default: a dev broker is started]
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_delimiter = ',', value_parser = host_port)]
    pub kafka_bootstrap_servers: Vec<String>,
    /// Port on localhost of the dev broker
    #[arg(long, value_name = "PORT", default_value = "30092", value_parser = clap::value_parser!(u16).range(1..))]
    pub broker_port: u16,
    /// The token of the tour's calls, where API_TOKENS_FILE is set.
    #[command(flatten)]
    pub token: ApiTokenArgs,
    #[arg(long, env = "API_TLS_CERTIFICATE_FILE", value_name = "FILE", hide = true)]
    pub api_tls_certificate_file: Option<PathBuf>,
    /// Address of the API
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port of the API; with --scaled of its first replica, the second has the next one
    #[arg(long, env = "PORT", default_value = "8000", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

impl Args {
    /// Whether a dev broker is started.
    pub fn starts_broker(&self) -> bool {
        self.kafka_bootstrap_servers.is_empty()
    }

    /// Where the dev broker listens.
    pub fn broker_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.broker_port))
    }

    /// The Kafka that everything uses.
    pub fn bootstrap(&self) -> Vec<String> {
        if self.starts_broker() {
            return vec![format!("localhost:{}", self.broker_port)];
        }
        self.kafka_bootstrap_servers.clone()
    }

    /// Where that replica of the API listens, counted from 0.
    pub fn api_address(&self, replica: usize) -> SocketAddr {
        SocketAddr::from((self.host, self.api_port(replica)))
    }

    /// Its port.
    pub fn api_port(&self, replica: usize) -> u16 {
        self.port.saturating_add(u16::try_from(replica).unwrap_or(u16::MAX))
    }

    /// Where this machine reaches it.
    pub fn api_url(&self, replica: usize) -> String {
        let host = match self.host {
            IpAddr::V4(host) if host.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(host) if host.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            host => host,
        };
        format!("http://{}", SocketAddr::from((host, self.api_port(replica))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_on_every_address_is_reached_on_loopback() {
        let url = |host: &str| Args::parse_from(["run-all", "--host", host, "--port", "8001"]).api_url(0);
        assert_eq!(url("0.0.0.0"), "http://127.0.0.1:8001");
        assert_eq!(url("::"), "http://[::1]:8001");
        assert_eq!(url("192.0.2.1"), "http://192.0.2.1:8001");
    }
}
