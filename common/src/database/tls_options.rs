//! What an address says about TLS, by libpq's names: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! Invariant: *verified or refused.* Each mode that means TLS verifies the server's certificate and its name, and a mode
//! that may end in plain text is an error. tokio-postgres knows neither the files nor these modes: its parser gets the
//! address without them.

use std::path::PathBuf;

use super::error::DatabaseError;
use crate::tls::{Identity, TlsFiles, TlsVariables};

static VARIABLES: TlsVariables = TlsVariables {
    ca: "sslrootcert in DATABASE_URL",
    identity: Some(("sslcert in DATABASE_URL", "sslkey in DATABASE_URL")),
};

/// These options of an address, not yet judged.
#[derive(Default)]
pub(super) struct TlsOptions {
    mode: Option<String>,
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// Takes them out of an address. The rest is as it was, also where it is no address.
pub(super) fn take(address: &str) -> (String, TlsOptions) {
    let mut options = TlsOptions::default();
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| address.starts_with(scheme));
    let rest = if is_url { options.take_from_url(address) } else { Some(options.take_from_words(address)) };
    (rest.unwrap_or_else(|| address.to_owned()), options)
}

impl TlsOptions {
    /// Where certificates and keys are; none for plain text. The error says what to write instead.
    pub(super) fn files(self) -> Result<Option<TlsFiles>, DatabaseError> {
        let has_files = self.ca.is_some() || self.certificate.is_some() || self.key.is_some();
        match self.mode.as_deref() {
            None | Some("disable") if !has_files => return Ok(None),
            None | Some("disable") => {
                return Err(DatabaseError::address(
                    "sslrootcert, sslcert and sslkey are for TLS, which sslmode does not ask for: add sslmode=verify-full",
                ));
            }
            Some("require" | "verify-ca" | "verify-full") => {}
            Some("allow" | "prefer") => {
                return Err(DatabaseError::address(
                    "sslmode allow and prefer may fall back from TLS to plain text: use verify-full, or disable on a trusted network",
                ));
            }
            Some(_) => {
                return Err(DatabaseError::address(
                    "sslmode is none of disable, require, verify-ca and verify-full",
                ));
            }
        }
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: PathBuf::from(certificate), key: PathBuf::from(key) })
            }
            (None, None) => None,
            _ => return Err(DatabaseError::address("sslcert and sslkey belong together: give both")),
        };
        // As libpq names the system's CAs, which are the default here.
        let ca = self.ca.filter(|ca| ca != "system").map(PathBuf::from);
        Ok(Some(TlsFiles { ca, identity, variables: &VARIABLES }))
    }

    /// Takes one option, if it is of these.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let option = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.ca,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        *option = Some(value.to_owned());
        true
    }

    /// As tokio-postgres reads it: the login ends at the first `@`, and options follow the first `?` behind it.
    fn take_from_url(&mut self, url: &str) -> Option<String> {
        let (scheme, rest) = url.split_once("://")?;
        let (login, rest) = rest.split_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (place, pairs) = rest.split_once('?')?;
        let kept = pairs.split('&').filter(|pair| {
            let option = pair.split_once('=').and_then(|(name, value)| Some((decode(name)?, decode(value)?)));
            !option.is_some_and(|(name, value)| self.take(&name, &value))
        });
        let kept: Vec<&str> = kept.collect();
        let at = if url.contains('@') { "@" } else { "" };
        let question = if kept.is_empty() { "" } else { "?" };
        Some(format!("{scheme}://{login}{at}{place}{question}{}", kept.join("&")))
    }

    /// `name = value` pairs; a value may be in single quotes, and a backslash takes the next character as it is.
    fn take_from_words(&mut self, words: &str) -> String {
        let (mut kept, mut rest) = (String::new(), words.trim_start());
        while let Some((name, after)) = rest.split_once('=') {
            let Some((value, after)) = value(after.trim_start()) else { break };
            let pair = rest.strip_suffix(after).unwrap_or(rest);
            if !self.take(name.trim_end(), &value) {
                kept.push_str(pair);
                kept.push(' ');
            }
            rest = after.trim_start();
        }
        kept + rest
    }
}

/// A value, and what follows it. None where it does not end.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let (mut value, mut chars) = (String::new(), quoted.unwrap_or(text).chars());
    loop {
        let before = chars.as_str();
        match chars.next() {
            Some('\'') if quoted.is_some() => return Some((value, chars.as_str())),
            None if quoted.is_some() => return None,
            None => return Some((value, before)),
            Some(c) if c.is_whitespace() && quoted.is_none() => return Some((value, before)),
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
        }
    }
}

/// Without percent-encoding. None where it is not valid.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_from_any_form_of_an_address_and_the_rest_stays() {
        for (address, rest) in [
            ("postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/a%20b", "postgres://u:p@h/d"),
            (
                "postgresql://h/d?connect_timeout=3&ssl%6dode=verify-full&sslrootcert=/a b&options=x",
                "postgresql://h/d?connect_timeout=3&options=x",
            ),
            ("postgres://u:a?b=c@h/d?sslmode=verify-full&sslrootcert=/a b", "postgres://u:a?b=c@h/d"),
            ("host=h sslmode = verify-full password='a b' sslrootcert='/a b'", "host=h password='a b' "),
            ("sslmode='verify-full' sslrootcert=/a\\ b host=h", "host=h "),
        ] {
            let (kept, options) = take(address);
            assert_eq!(kept, rest);
            let files = options.files().unwrap().unwrap();
            assert_eq!((files.ca, files.identity), (Some(PathBuf::from("/a b")), None), "{address}");
        }
        for address in [
            "postgres://u:sslmode=require@h/d",
            "postgres://u:p?sslmode=require@h",
            "host=h password='sslmode=require'",
            "host=h password='not ended sslmode=require",
            "postgres://h/d?x&y=%",
            "é=",
            "%",
        ] {
            let (kept, options) = take(address);
            assert_eq!((kept.trim_end(), options.files().unwrap()), (address, None));
        }
    }

    #[test]
    fn no_mode_may_end_in_plain_text_but_the_one_that_says_so() {
        let files = |query: &str| take(&format!("postgres://h/d?{query}")).1.files();
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(files(&format!("sslmode={mode}")).unwrap().is_some());
        }
        assert_eq!(files("sslmode=verify-full&sslrootcert=system").unwrap().unwrap().ca, None);
        assert_eq!(files("sslmode=disable").unwrap(), None);
        for (query, part) in [
            ("sslmode=prefer", "fall back"),
            ("sslmode=allow", "fall back"),
            ("sslmode=Require", "none of"),
            ("sslmode=", "none of"),
            ("sslrootcert=/ca", "add sslmode"),
            ("sslmode=disable&sslcert=/c&sslkey=/k", "add sslmode"),
            ("sslmode=require&sslcert=/c", "give both"),
            ("sslmode=require&sslkey=/k", "give both"),
        ] {
            let error = files(query).unwrap_err().to_string();
            assert!(error.contains(part), "{query}: {error}");
        }
    }
}
