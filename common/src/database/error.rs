//! What went wrong with the database, by what can be done about it.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_postgres::error::SqlState;

use crate::error_code::{Code, Coded};
use crate::tls::{TlsError, is_certificate_alert};

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The address is wrong: nothing, before it is changed.
    Address,
    /// No connection, or it is lost: another one, later.
    Connection,
    /// No connection, since others have all of them: later. Those that are there work.
    Crowded,
    /// This server takes no changes: another connection, which may find one that does.
    ReadOnly,
    /// It has no space left, or no memory: wait.
    Full,
    /// The transaction met another one: the same again.
    Conflict,
    /// It took too long, and was ended.
    Timeout,
    /// The schema is another than expected, or may not be used.
    Schema,
    /// Its tasks were moved into an embedded store.
    MovedAway,
    /// This statement, or its values.
    Statement,
}

/// Why the database did not do what was asked, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseError {
    trouble: Trouble,
    message: String,
}

impl DatabaseError {
    pub(super) fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self { trouble, message: message.into() }
    }

    /// The address, or what is beside it, cannot be used.
    pub fn address(why: impl fmt::Display) -> Self {
        Self::new(Trouble::Address, format!("DATABASE_URL cannot be used: {why}"))
    }

    /// It did not answer within its time.
    pub fn timeout(what: &str) -> Self {
        Self::new(Trouble::Timeout, format!("{what}: the database does not answer in time"))
    }

    /// What can be done.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// Whether another connection is needed before the next attempt.
    pub fn ends_session(&self) -> bool {
        use Trouble::{Connection, Crowded, ReadOnly, Timeout};
        matches!(self.trouble, Connection | Crowded | ReadOnly | Timeout)
    }

    /// Whether it may be over without anybody changing anything here.
    pub fn may_pass(&self) -> bool {
        self.ends_session() || matches!(self.trouble, Trouble::Full | Trouble::Conflict)
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for DatabaseError {}

impl Coded for DatabaseError {
    fn code(&self) -> Code {
        match self.trouble {
            Trouble::Address => Code::DatabaseAddress,
            Trouble::Schema => Code::DatabaseSchema,
            Trouble::MovedAway => Code::DatabaseMovedAway,
            _ => Code::Database,
        }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(reported) = error.as_db_error() else {
            if let Some(message) = of_tls(&error) {
                return Self::new(Trouble::Connection, message);
            }
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !message.contains(&cause_text) {
                    message = format!("{message}: {cause_text}");
                }
                source = cause.source();
            }
            // Of tokio-postgres, where each host is a standby or set to read only.
            let is_read_only = message.contains("does not allow writes");
            return Self::new(if is_read_only { Trouble::ReadOnly } else { Trouble::Connection }, message);
        };
        let message = format!("{} (SQLSTATE {})", reported.message(), reported.code().code());
        Self::new(trouble(reported.code()), message)
    }
}

/// What is wrong with TLS, if that is what is wrong.
fn of_tls(error: &tokio_postgres::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<TlsError>() {
            return Some(format!("TLS: {refused}"));
        }
        if cause.downcast_ref::<io::Error>().is_some_and(is_certificate_alert) {
            return Some(format!(
                "TLS: it refuses this client's certificate ({cause}): give one that it accepts by sslcert and sslkey in DATABASE_URL"
            ));
        }
        // Of tokio-postgres, without a type of its own.
        if cause.to_string() == "server does not support TLS" {
            return Some(
                "TLS: its server does not speak it, or something in between takes it away; plain text is not tried: switch ssl on there"
                    .to_owned(),
            );
        }
        source = cause.source();
    }
    None
}

fn trouble(state: &SqlState) -> Trouble {
    match state.code() {
        "40001" | "40P01" | "55P03" => Trouble::Conflict,
        "25006" => Trouble::ReadOnly,
        "57014" => Trouble::Timeout,
        "53300" => Trouble::Crowded,
        // No disk, no memory, no lock space; a configured limit.
        code if code.starts_with("53") => Trouble::Full,
        // I/O errors of the server's disk.
        code if code.starts_with("58") => Trouble::Full,
        "42P01" | "42703" | "3F000" | "42501" => Trouble::Schema,
        // Connection exceptions, shut-downs, ended idle transactions, failed logins.
        code if ["08", "57", "25", "28", "3D"].iter().any(|class| code.starts_with(class)) => {
            Trouble::Connection
        }
        _ => Trouble::Statement,
    }
}
