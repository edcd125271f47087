//! Who calls: identities, and what each may do.
//!
//! | file | what |
//! | --- | --- |
//! | `caller` | who was recognised, or why not |
//! | `tokens` | bearer tokens that a file knows by their hashes |
//! | `jwt` | tokens that an issuer has signed |
//! | `key_url` | the issuer's keys, where they are at a URL |
//!
//! # Invariants
//!
//! 1. *Without identities nothing is asked*: a process that has none configured does not look at the header.
//! 2. *With identities nobody is anybody by accident*: a header that is missing, given twice, of another scheme or not
//!    known is refused, and so is everything while no token is known.
//! 3. *A token leaves no trace*: not in a line, an error, or `Debug`.

mod caller;
mod jwt;
mod key_url;
mod tokens;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use caller::{Actor, Caller, Denied};
pub use jwt::Issuer;

use task_events::http_client::Url;
use task_events::tls::Tls;
use task_events::watched_file::{FileError, WatchedFile};

use jwt::{Keys, Refusal};
use key_url::KeyUrl;
use tokens::Tokens;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// Why nobody could be known at the start.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file of callers or of keys cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of certificates cannot be used.
    #[error("{0}")]
    Certificates(String),
    /// No thread can be had.
    #[error("API_JWKS_URL cannot be fetched from: {0}")]
    Thread(#[from] io::Error),
}

/// The callers of the API.
#[derive(Debug, Clone, Default)]
pub struct Access {
    tokens: Option<WatchedFile<Tokens>>,
    signed: Option<(KeySource, Issuer)>,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
enum KeySource {
    File(WatchedFile<Keys>),
    Url(KeyUrl),
}

impl KeySource {
    fn current(&self) -> Option<Arc<Keys>> {
        match self {
            Self::File(file) => Some(file.current()),
            Self::Url(url) => url.current(),
        }
    }
}

impl Access {
    /// Adds callers by the tokens of a file.
    pub fn with_tokens(self, path: &Path) -> Result<Self, FileError> {
        Ok(Self { tokens: Some(WatchedFile::open("API_TOKENS_FILE", path, Tokens::parse)?), ..self })
    }

    /// Adds callers by the tokens that an issuer signs with the keys of a file.
    pub fn with_keys(self, path: &Path, issuer: Issuer) -> Result<Self, FileError> {
        let keys = WatchedFile::open("API_JWKS_FILE", path, Keys::parse)?;
        Ok(Self { signed: Some((KeySource::File(keys), issuer)), ..self })
    }

    /// Adds callers by the tokens that an issuer signs with the keys at a URL. An https one needs `tls`.
    pub fn with_key_url(self, url: Url, tls: Option<Tls>, issuer: Issuer) -> Result<Self, AccessError> {
        if url.is_in_clear_text() {
            log::warn!(
                "API_JWKS_URL is http, to another machine: who can change what the network carries can call the API as anybody; use https"
            );
        }
        Ok(Self { signed: Some((KeySource::Url(KeyUrl::open(url, tls)?), issuer)), ..self })
    }

    /// The caller that an `Authorization` header proves.
    pub fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, Denied> {
        let token = bearer(authorization.ok_or(Denied::NoToken)?)?;
        if let Some(caller) = self.tokens.as_ref().and_then(|tokens| tokens.current().caller(token)) {
            return Ok(caller);
        }
        let signed = self.signed.as_ref().filter(|_| token.contains('.'));
        let (source, issuer) = signed.ok_or(Denied::Unknown)?;
        let keys = source.current().ok_or(Denied::NoKeys)?;
        keys.caller(token, issuer).map_err(|refusal| match (refusal, source) {
            (Refusal::Key, KeySource::Url(_)) => Denied::UnknownKey,
            _ => Denied::Unknown,
        })
    }

    /// Waits a moment for an issuer's keys that are not known yet. True: it has none but those known now.
    pub async fn learn_keys(&self) -> bool {
        match &self.signed {
            Some((KeySource::Url(url), _)) => url.learn().await,
            _ => false,
        }
    }

    /// Time since the issuer's keys were last fetched from their URL, if they are at one.
    pub fn keys_age(&self) -> Option<Duration> {
        match &self.signed {
            Some((KeySource::Url(url), _)) => Some(url.age()),
            _ => None,
        }
    }

    /// Whether a header holds what a signature would be verified of, which takes far longer than a look at a file.
    pub fn verifies(&self, header: &[u8]) -> bool {
        self.signed.is_some() && bearer(header).is_ok_and(|token| token.contains('.'))
    }

    /// That callers are known by what was before, if so: a file or a URL cannot be used as it is. Why is for the log alone.
    pub fn failure(&self) -> Option<String> {
        let of_file = |variable: &'static str| {
            format!(
                "{variable} has changed and cannot be used; what it said before still counts; see the log"
            )
        };
        let tokens = self.tokens.as_ref().and_then(WatchedFile::failure).map(of_file);
        tokens.or_else(|| match &self.signed {
            Some((KeySource::File(file), _)) => file.failure().map(of_file),
            Some((KeySource::Url(url), _)) => url.failure(),
            None => None,
        })
    }
}

/// The token of a header (RFC 6750, section 2.1). Of another scheme, none is given.
fn bearer(header: &[u8]) -> Result<&str, Denied> {
    let text = std::str::from_utf8(header).map_err(|_| Denied::Malformed)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::NoToken);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Denied::Malformed);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_holds_one_token_or_none() {
        for (header, token) in [
            ("Bearer te_x", Ok("te_x")),
            ("bearer  te_x ", Ok("te_x")),
            ("Basic dGVfeA==", Err(Denied::NoToken)),
            ("", Err(Denied::NoToken)),
            ("Bearer", Err(Denied::Malformed)),
            ("Bearer te_x te_y", Err(Denied::Malformed)),
            ("Bearer te_x,te_y é", Err(Denied::Malformed)),
        ] {
            assert_eq!(bearer(header.as_bytes()), token, "{header}");
        }
        assert_eq!(bearer(&[b"Bearer ".as_slice(), &[b'x'; MAX_TOKEN + 1]].concat()), Err(Denied::Malformed));
    }
}
