//! `DATABASE_URL`: where the database is, and who logs in.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};

use super::error::DatabaseError;
use super::hosts;
use super::tls_options;
use crate::tls::TlsFiles;

/// Time to connect to one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which a host is asked whether it is still there, and how long sent data may stay unacknowledged.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a database, with a password as a rule: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    text: String,
    /// The file that it came from, if any.
    file: Option<PathBuf>,
}

/// What an address says, and the files of TLS that it names.
pub(super) type Target = (Config, Option<TlsFiles>);

impl DatabaseUrl {
    /// Any text; whether it is an address, [`endpoint`](DatabaseUrl::endpoint) says.
    pub fn new(text: &str) -> Self {
        Self { text: text.trim().to_owned(), file: None }
    }

    /// The same in a file, whose login is read again for each connection.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(path.to_owned()), ..Self::new(&std::fs::read_to_string(path)?) })
    }

    /// The file that it came from, if any.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether the login, and the tasks, go to another machine in plain text.
    pub fn is_plain_text_to_others(&self) -> bool {
        let Ok((config, None)) = self.target() else { return false };
        let addresses = config.get_hostaddrs();
        let is_here = |(number, host): (usize, &Host)| match (host, addresses.get(number)) {
            (Host::Unix(_), _) => true,
            (_, Some(address)) => address.is_loopback(),
            (Host::Tcp(name), None) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        !config.get_hosts().iter().enumerate().all(is_here)
    }

    /// What it says.
    pub(super) fn target(&self) -> Result<Target, DatabaseError> {
        let wrong = |why: &dyn fmt::Display| {
            DatabaseError::address(format!(
                "it is not an address such as postgres://user:password@host:5432/database ({why})"
            ))
        };
        if !self.has_a_login_that_is_one() {
            return Err(DatabaseError::address(
                "an @, / or ? in its user, password or options has to be percent-encoded: %40, %2F, %3F",
            ));
        }
        let (rest, options) = tls_options::take(&self.text);
        let files = options.files()?;
        // The parser's errors name options, not values.
        let mut config: Config = rest.parse().map_err(|error| wrong(&error))?;
        if config.get_hosts().is_empty() {
            return Err(wrong(&"no host"));
        }
        // As PostgreSQL does; another user is not to mean another database.
        if let (None, Some(user)) = (config.get_dbname(), config.get_user().map(str::to_owned)) {
            config.dbname(user);
        }
        config.ssl_mode(if files.is_some() { SslMode::Require } else { SslMode::Disable });
        if config.get_ssl_negotiation() == SslNegotiation::Direct {
            return Err(DatabaseError::address("sslnegotiation=direct is not supported: leave it out"));
        }
        if files.is_some() && config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))) {
            return Err(DatabaseError::address("TLS is not for a Unix socket: leave sslmode out"));
        }
        let is_named = |host: &Host| match host {
            Host::Tcp(name) => ServerName::try_from(name.as_str()).is_ok(),
            Host::Unix(_) => false,
        };
        if files.is_some() && !config.get_hosts().iter().all(is_named) {
            return Err(DatabaseError::address("a host is no name or address that a certificate can have"));
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            // Of several hosts, the one that takes changes.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).tcp_user_timeout(TCP_USER_TIMEOUT);
        Ok((config, files))
    }

    /// Whether what is before the first `@` of a URL is a login. Where it is a host, with the `@` in an option, the parser takes
    /// all of it for a login, `sslmode` as well, and the rest for the host.
    fn has_a_login_that_is_one(&self) -> bool {
        let Some((_, rest)) = self.text.split_once("://") else { return true };
        let Some((login, rest)) = rest.split_once('@') else { return true };
        let hosts = rest.split(['/', '?']).next().unwrap_or(rest);
        !login.contains(['/', '?']) && !hosts.contains('@')
    }

    /// Hosts, with ports that are not PostgreSQL's own, and database, for people.
    pub fn place(&self) -> String {
        let Ok((config, _)) = self.target() else { return "the database".to_owned() };
        // What has other characters may be part of a password that was not percent-encoded: then what is beside it may
        // be, too.
        let hosts: Option<Vec<String>> = hosts::shown(&config).into_iter().collect();
        let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
        match hosts.filter(|_| hosts::is_plain(database, "")) {
            Some(hosts) => format!("database {database} at {}", hosts.join(", ")),
            None => {
                "database (name and host not shown: they have characters that a password may have)".to_owned()
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_error_and_no_debug_output() {
        for text in [
            "postgres://u:hush@h/db?sslmode=prefer",
            "postgres://u:hush@h/db?sslmode=%70refer",
            "host=h password=hush sslmode = prefer",
            "host=h password=hush sslmode='prefer'",
            "host=/run password=hush sslmode=require",
            "postgres://u:hush@h/db?sslmode=require&sslnegotiation=direct",
            "postgres://u:hush@h/db?sslmode=require&sslcrl=hush",
            "postgres://u:hush@h/db?sslmode=hush2",
            "postgres://u:hush@h:port/db",
            "postgres://u:hush@",
            "hush",
            "host=h password=hush port=x",
            "postgres://db/tasks?sslmode=verify-full&user=app&sslrootcert=/etc/ca@hush/ca.crt",
            "postgres://db?sslmode=require&user=app&password=p@hush",
            "postgres://db/tasks?user=app&password=p@hush/word",
            "postgres://u:12/hush@h/db",
            "postgres://u:12?hush@h/db",
            "postgres://u:pa@hush@db/tasks?hostaddr=10.0.0.1&sslmode=verify-full",
            "host='hush@db' sslmode=verify-full",
            "",
        ] {
            let url = DatabaseUrl::new(text);
            let shown = format!("{url:?} {} {}", url.target().unwrap_err(), url.place());
            assert!(!shown.contains("hush"), "{shown}");
        }
        let url = DatabaseUrl::new("postgres://u:hush@h,i:5433/db\n");
        assert!(!format!("{url:?} {:?}", url.target().unwrap()).contains("hush"));
        assert_eq!(url.place(), "database db at h, i:5433");
        // The parser ends the password at the first @, and the host at the first /.
        for text in [
            "postgres://u:pa@hush@db/tasks",
            "postgres://u:pa@1/hush@db/tasks",
            "postgres://u:a@b@c/hush",
            "postgres://u:pa@hush/b@db/tasks",
        ] {
            let place = DatabaseUrl::new(text).place();
            assert!(!place.contains("hush"), "{place}");
        }
        assert_eq!(DatabaseUrl::new("postgres://u@[::1]:5433/db").place(), "database db at [::1]:5433");
        let socket = DatabaseUrl::new("host=/var/run/postgresql dbname=db");
        assert_eq!(socket.place(), "database db at /var/run/postgresql");
    }

    #[test]
    fn tls_is_required_where_it_is_asked_for() {
        let mode = |text: &str| DatabaseUrl::new(text).target().unwrap().0.get_ssl_mode();
        for text in [
            "postgres://h/db?sslmode=require",
            "postgres://h/db?sslmode=%72equire",
            "postgres://h/db?sslmode=verify-ca",
            "host=h sslmode = verify-full",
            "host=h sslmode='require'",
        ] {
            assert_eq!(mode(text), SslMode::Require, "{text}");
        }
        for text in
            ["postgres://h/db", "postgres://h/db?sslmode=disable", "postgres://u:sslmode=require@h/db"]
        {
            assert_eq!(mode(text), SslMode::Disable, "{text}");
        }
        assert!(!DatabaseUrl::new("postgres://u:12/hush@h/db").place().contains("hush"));
    }

    #[test]
    fn plain_text_to_another_machine_is_known() {
        for (address, is_exposed) in [
            ("postgres://u@db/d", true),
            ("postgres://u@127.0.0.1,db/d", true),
            ("host=localhost hostaddr=10.0.0.1", true),
            ("postgres://u@db/d?sslmode=verify-full", false),
            ("postgres://u@localhost,127.0.0.1,[::1]/d", false),
            ("host=db hostaddr=127.0.0.1", false),
            ("host=/run/postgresql", false),
            ("no address", false),
        ] {
            assert_eq!(DatabaseUrl::new(address).is_plain_text_to_others(), is_exposed, "{address}");
        }
    }
}
