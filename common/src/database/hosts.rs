//! The hosts of an address, and the addresses of each: tried one after the other, each within a time of its own.
//!
//! # Invariants
//!
//! 1. *None hides another.* A host, or an address of one, that accepts a connection and answers nothing, as a machine
//!    whose disk hangs, costs its own time; and it is not tried first the next time. One that serves stays the first, also
//!    for those who connect at the same time.
//! 2. *The error is of all of them*, by name, and is what tells most: that one of them is a standby says nothing where
//!    another cannot be reached, or is not trusted.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

use super::error::{DatabaseError, Trouble};
use super::first::First;

/// Time for one of several: connection, TLS, login, and whether it takes changes.
const ONE_OF_SEVERAL_TIMEOUT: Duration = Duration::from_secs(3);
/// PostgreSQL's own port.
const DEFAULT_PORT: u16 = 5432;

/// A connection that is made.
type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, DatabaseError>> + Send + 'a>>;
pub(super) type Connect<'a, T> = dyn Fn(&Config) -> Attempt<'_, T> + Sync + 'a;

/// One host.
#[derive(Debug)]
struct Target {
    /// As it is shown.
    name: String,
    config: Config,
    /// Of its addresses.
    first: First,
}

/// The hosts of an address.
#[derive(Debug)]
pub(super) struct Hosts {
    targets: Vec<Target>,
    first: First,
}

impl Hosts {
    /// Of an address that names one at least.
    pub(super) fn of(config: &Config) -> Result<Self, DatabaseError> {
        let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
        let fits = |count: usize, least: usize| count <= least || count == hosts.len();
        if !fits(addresses.len(), 0) || !fits(ports.len(), 1) {
            return Err(DatabaseError::address("it has not as many ports, or hostaddr, as hosts"));
        }
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            return Err(DatabaseError::address(
                "load_balance_hosts is not supported: one host takes changes",
            ));
        }
        let names = shown(config);
        let target = |(number, host): (usize, &Host)| {
            let name = names.get(number).cloned().flatten();
            let name = name.unwrap_or_else(|| format!("host {}", number + 1));
            let config = single(config, host, addresses.get(number).copied(), port(config, number));
            Target { name, config, first: First::default() }
        };
        Ok(Self { targets: hosts.iter().enumerate().map(target).collect(), first: First::default() })
    }

    /// The first of them to which `connect` succeeds.
    pub(super) async fn first_of<T>(&self, connect: &Connect<'_, T>) -> Result<T, DatabaseError> {
        let (count, mut known) = (self.targets.len(), self.first.known());
        let mut errors = Vec::new();
        for number in known.in_turn(count) {
            let Some(target) = self.targets.get(number) else { continue };
            let trial = self.first.trial(number, &mut known);
            match target.connect(connect, count > 1).await {
                Ok(connected) => {
                    trial.has_served();
                    return Ok(connected);
                }
                Err(error) => errors.push((target.name.as_str(), error)),
            }
        }
        Err(all(errors))
    }
}

impl Target {
    async fn connect<T>(
        &self,
        connect: &Connect<'_, T>,
        is_one_of_several: bool,
    ) -> Result<T, DatabaseError> {
        let addresses = self.addresses().await?;
        self.first_of(&addresses, connect, is_one_of_several || addresses.len() > 1).await
    }

    /// The first of its addresses to which `connect` succeeds.
    async fn first_of<T>(
        &self,
        addresses: &[Config],
        connect: &Connect<'_, T>,
        is_one_of_several: bool,
    ) -> Result<T, DatabaseError> {
        let (mut errors, mut known) = (Vec::new(), self.first.known());
        for number in known.in_turn(addresses.len()) {
            let Some(config) = addresses.get(number) else { continue };
            let trial = self.first.trial(number, &mut known);
            let connected = if is_one_of_several {
                let connected = timeout(ONE_OF_SEVERAL_TIMEOUT, connect(config)).await;
                connected.unwrap_or_else(|_| Err(DatabaseError::timeout("connect")))
            } else {
                connect(config).await
            };
            match connected {
                Ok(connected) => {
                    trial.has_served();
                    return Ok(connected);
                }
                Err(error) => errors.push(("", error)),
            }
        }
        Err(all(errors))
    }

    /// One for each address of its name.
    async fn addresses(&self) -> Result<Vec<Config>, DatabaseError> {
        let (hosts, addresses, ports) =
            (self.config.get_hosts(), self.config.get_hostaddrs(), self.config.get_ports());
        let port = ports.first().copied().unwrap_or(DEFAULT_PORT);
        let ([host @ Host::Tcp(name)], true) = (hosts, addresses.is_empty()) else {
            return Ok(vec![self.config.clone()]);
        };
        let found = timeout(ONE_OF_SEVERAL_TIMEOUT, lookup_host((name.as_str(), port))).await;
        let found = found.map_err(|_| DatabaseError::timeout("look up its name"))?;
        let cannot = |why: &dyn std::fmt::Display| {
            DatabaseError::new(Trouble::Connection, format!("its name has no address: {why}"))
        };
        let found: Vec<SocketAddr> = found.map_err(|error| cannot(&error))?.collect();
        if found.is_empty() {
            return Err(cannot(&"the answer is empty"));
        }
        Ok(found.iter().map(|found| single(&self.config, host, Some(found.ip()), port)).collect())
    }
}

/// How each host is shown: with its port, where that is not PostgreSQL's own. `None`: it has characters that a password
/// may have, which was not percent-encoded.
pub(super) fn shown(config: &Config) -> Vec<Option<String>> {
    let name = |host: &Host| match host {
        Host::Tcp(name) => Some(name.clone()).filter(|name| is_plain(name, ":")),
        Host::Unix(path) => path.to_str().filter(|path| is_plain(path, "/")).map(str::to_owned),
    };
    let host = |(number, host): (usize, &Host)| {
        let name = name(host)?;
        Some(match port(config, number) {
            DEFAULT_PORT => name,
            port if name.contains(':') => format!("[{name}]:{port}"),
            port => format!("{name}:{port}"),
        })
    };
    config.get_hosts().iter().enumerate().map(host).collect()
}

/// Whether a name has letters, digits, dots, dashes, and of these characters.
pub(super) fn is_plain(name: &str, also: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c) || also.contains(c))
}

/// One port is that of all hosts.
fn port(config: &Config, number: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(number).or(ports.first()).copied().unwrap_or(DEFAULT_PORT)
}

/// The same for one host alone.
fn single(config: &Config, host: &Host, address: Option<IpAddr>, port: u16) -> Config {
    let mut one = Config::new();
    match host {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    if let Some(address) = address {
        one.hostaddr(address);
    }
    one.port(port)
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .target_session_attrs(config.get_target_session_attrs())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle());
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|name| one.dbname(name));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
    config.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
    config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one
}

/// One error for all hosts: it has what each of them answered, and an answer that several gave only once.
fn all(mut errors: Vec<(&str, DatabaseError)>) -> DatabaseError {
    if let [_] = errors.as_slice()
        && let Some((_, error)) = errors.pop()
    {
        return error;
    }
    let weight = |error: &DatabaseError| match error.trouble() {
        Trouble::ReadOnly => 0,
        Trouble::Timeout => 1,
        Trouble::Connection => 2,
        _ => 3,
    };
    let trouble = errors.iter().map(|(_, error)| error).max_by_key(|error| weight(error));
    let trouble = trouble.map_or(Trouble::Connection, DatabaseError::trouble);
    let mut lines: Vec<String> = Vec::new();
    for (name, error) in &errors {
        let line = if name.is_empty() { error.to_string() } else { format!("{name}: {error}") };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    DatabaseError::new(trouble, lines.join("; "))
}

#[cfg(test)]
mod tests;
