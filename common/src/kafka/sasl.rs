//! Who logs in at a broker, and what it proves.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::ValueEnum;

/// Longest secret in a file, in bytes: a token of some thousand.
const MAX_SECRET: u64 = 64 * 1024;

/// How a user is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaslMechanism {
    /// The password itself is sent: RFC 4616.
    #[value(name = "PLAIN")]
    Plain,
    /// It is proven that both sides know the password: RFC 7677.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token that somebody else has issued is sent: RFC 7628.
    #[value(name = "OAUTHBEARER")]
    OauthBearer,
}

impl SaslMechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// Whether whoever sees what is sent can log in afterwards.
    pub(crate) fn sends_the_secret(self) -> bool {
        matches!(self, Self::Plain | Self::OauthBearer)
    }
}

/// A secret that does not show itself in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// Itself.
    Value(Password),
    /// A file, whose first line it is. It is read at each use, so that a secret that was replaced is used.
    File(PathBuf),
}

impl Secret {
    /// The secret. Blocks where it is in a file.
    pub fn read(&self) -> Result<Password, String> {
        let path = match self {
            Self::Value(password) => return Ok(password.clone()),
            Self::File(path) => path,
        };
        let shown = path.display();
        let mut text = String::new();
        let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
        file.take(MAX_SECRET).read_to_string(&mut text).map_err(|error| format!("{shown}: {error}"))?;
        match text.lines().next() {
            Some(first) if !first.is_empty() => Ok(Password(first.to_owned())),
            _ => Err(format!("{shown} has no secret in its first line")),
        }
    }
}

/// Who logs in, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How.
    pub mechanism: SaslMechanism,
    /// Who. With OAUTHBEARER, the token says so.
    pub username: String,
    /// The password, or the token.
    pub secret: Secret,
}
