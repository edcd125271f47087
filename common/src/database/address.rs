//! `DATABASE_URL`: where the database is, and who logs in.

use std::fmt;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::error::DatabaseError;

/// Time to connect to one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which a host is asked whether it is still there, and how long sent data may stay unacknowledged.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a database, with a password as a rule: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Any text; whether it is an address, [`config`](Self::config) says.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// How to connect.
    pub fn config(&self) -> Result<Config, DatabaseError> {
        let tls = || {
            DatabaseError::address(
                "sslmode asks for TLS, which this version does not speak to PostgreSQL: connect through a trusted network or a proxy that speaks TLS, with sslmode=disable",
            )
        };
        let wrong = |why: &dyn fmt::Display| {
            DatabaseError::address(format!(
                "it is not an address such as postgres://user:password@host:5432/database ({why})"
            ))
        };
        // The parser's errors name options, not values.
        let parsed: Result<Config, _> = self.0.parse();
        // Modes that the parser does not know.
        let mut config = match parsed {
            Err(_) if self.0.contains("verify-ca") || self.0.contains("verify-full") => return Err(tls()),
            parsed => parsed.map_err(|error| wrong(&error))?,
        };
        if config.get_ssl_mode() == SslMode::Require {
            return Err(tls());
        }
        if config.get_hosts().is_empty() {
            return Err(wrong(&"no host"));
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            // Of several hosts, the one that takes changes.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).tcp_user_timeout(TCP_USER_TIMEOUT);
        Ok(config)
    }

    /// Hosts and database, for people.
    pub fn place(&self) -> String {
        let Ok(config) = self.config() else { return "the database".to_owned() };
        // What has other characters may be part of a password that was not percent-encoded: then what is beside it may
        // be, too.
        let is_plain = |name: &str, also: &str| {
            name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c) || also.contains(c))
        };
        let host = |host: &Host| match host {
            Host::Tcp(name) => Some(name.clone()).filter(|name| is_plain(name, ":")),
            Host::Unix(path) => path.to_str().filter(|path| is_plain(path, "/")).map(str::to_owned),
        };
        let hosts: Option<Vec<String>> = config.get_hosts().iter().map(host).collect();
        let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
        match hosts.filter(|_| is_plain(database, "")) {
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
            "postgres://u:hush@h/db?sslmode=require",
            "postgres://u:hush@h/db?sslmode=%72equire",
            "host=h password=hush sslmode = require",
            "host=h password=hush sslmode='require'",
            "postgres://u:hush@h/db?sslmode=hush2",
            "postgres://u:hush@h:port/db",
            "postgres://u:hush@",
            "hush",
            "host=h password=hush port=x",
            "",
        ] {
            let url = DatabaseUrl::new(text);
            let shown = format!("{url:?} {} {}", url.config().unwrap_err(), url.place());
            assert!(!shown.contains("hush"), "{shown}");
        }
        let url = DatabaseUrl::new("postgres://u:hush@h,i:5433/db\n");
        assert!(!format!("{url:?} {:?}", url.config().unwrap()).contains("hush"));
        assert_eq!(url.place(), "database db at h, i");
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
        assert_eq!(DatabaseUrl::new("postgres://u@[::1]:5433/db").place(), "database db at ::1");
        let socket = DatabaseUrl::new("host=/var/run/postgresql dbname=db");
        assert_eq!(socket.place(), "database db at /var/run/postgresql");
    }

    #[test]
    fn tls_that_cannot_be_had_is_refused_rather_than_left_out() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = DatabaseUrl::new(&format!("postgres://h/db?sslmode={mode}")).config().unwrap_err();
            assert!(error.to_string().contains("TLS"), "{error}");
        }
        for text in
            ["postgres://h/db?sslmode=%72equire", "host=h sslmode = require", "host=h sslmode='require'"]
        {
            let error = DatabaseUrl::new(text).config().unwrap_err();
            assert!(error.to_string().contains("TLS"), "{error}");
        }
        assert!(DatabaseUrl::new("postgres://h/db?sslmode=prefer").config().is_ok());
        assert!(DatabaseUrl::new("postgres://u:sslmode=require@h/db").config().is_ok(), "a password");
        assert!(!DatabaseUrl::new("postgres://u:12/hush@h/db").place().contains("hush"));
    }
}
