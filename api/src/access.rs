//! Who calls: identities, and what each may do.
//!
//! | file | what |
//! | --- | --- |
//! | `caller` | who was recognised, or why not |
//! | `tokens` | bearer tokens that a file knows by their hashes |
//! | `jwt` | tokens that an issuer has signed |
//!
//! # Invariants
//!
//! 1. *Without identities nothing is asked*: a process that has none configured does not look at the header.
//! 2. *With identities nobody is anybody by accident*: a header that is missing, given twice, of another scheme or not
//!    known is refused, and so is everything while no token is known.
//! 3. *A token leaves no trace*: not in a line, an error, or `Debug`.

mod caller;
mod jwt;
mod tokens;

use std::path::Path;

pub use caller::{Actor, Caller, Denied};
pub use jwt::Issuer;
pub use task_events::watched_file::FileError;

use task_events::watched_file::WatchedFile;

use jwt::Keys;
use tokens::Tokens;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// The callers of the API.
#[derive(Debug, Clone, Default)]
pub struct Access {
    tokens: Option<WatchedFile<Tokens>>,
    signed: Option<(WatchedFile<Keys>, Issuer)>,
}

impl Access {
    /// Adds callers by the tokens of a file.
    pub fn with_tokens(self, path: &Path) -> Result<Self, FileError> {
        Ok(Self { tokens: Some(WatchedFile::open("API_TOKENS_FILE", path, Tokens::parse)?), ..self })
    }

    /// Adds callers by the tokens that an issuer signs with the keys of a file.
    pub fn with_keys(self, path: &Path, issuer: Issuer) -> Result<Self, FileError> {
        Ok(Self { signed: Some((WatchedFile::open("API_JWKS_FILE", path, Keys::parse)?, issuer)), ..self })
    }

    /// The caller that an `Authorization` header proves.
    pub fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, Denied> {
        let token = bearer(authorization.ok_or(Denied::NoToken)?)?;
        let of_file = self.tokens.as_ref().and_then(|tokens| tokens.current().caller(token));
        let signed = || {
            let (keys, issuer) = self.signed.as_ref().filter(|_| token.contains('.'))?;
            keys.current().caller(token, issuer)
        };
        of_file.or_else(signed).ok_or(Denied::Unknown)
    }

    /// Whether a header holds what a signature would be verified of, which takes far longer than a look at a file.
    pub fn verifies(&self, header: &[u8]) -> bool {
        self.signed.is_some() && bearer(header).is_ok_and(|token| token.contains('.'))
    }

    /// The variable of a file that has changed and is not used as it is, if there is one.
    pub fn failure(&self) -> Option<&'static str> {
        let tokens = self.tokens.as_ref().and_then(WatchedFile::failure);
        tokens.or_else(|| self.signed.as_ref().and_then(|(keys, _)| keys.failure()))
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
