//! Standard Webhooks: the signature of a message (<https://www.standardwebhooks.com>).
//!
//! Each secret signs each message, so that a receiver may know the old one or the new one while they are replaced.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Begins a secret, as in the reference implementations.
const PREFIX: &str = "whsec_";
/// Bytes of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets at one time.
const MAX_SECRETS: usize = 8;

/// The secrets that sign. No output shows them.
pub(super) struct Secrets(Vec<Hmac<Sha256>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("1 secret"),
            many => write!(f, "{many} secrets"),
        }
    }
}

impl Secrets {
    /// A secret a line, `whsec_` and base64. Empty lines, and those that begin with `#`, say nothing.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut secrets = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself is never repeated.
            let bytes = line.strip_prefix(PREFIX).and_then(|rest| STANDARD.decode(rest).ok());
            let bytes = bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
            let secret = bytes.and_then(|bytes| Hmac::new_from_slice(&bytes).ok());
            secrets.push(
                secret
                    .ok_or_else(|| format!("line {number} is not {PREFIX} and 24 to 64 bytes in base64"))?,
            );
        }
        match secrets.len() {
            0 => Err("it has no secret".to_owned()),
            1..=MAX_SECRETS => Ok(Self(secrets)),
            _ => Err(format!("it has more than {MAX_SECRETS} secrets")),
        }
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signed = self.0.iter().map(|secret| {
            let mut mac = secret.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signed.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the specification's reference libraries.
    #[test]
    fn the_signature_is_that_of_the_reference() {
        let secrets = Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature =
            secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs_and_a_wrong_line_is_named_without_it() {
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let two = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let both = Secrets::parse(&format!("# new\n{one}\n\n{two}")).unwrap();
        let signature = both.sign("m", 1, b"x");
        assert_eq!(signature.split(' ').count(), 2);
        assert!(signature.starts_with(&Secrets::parse(one).unwrap().sign("m", 1, b"x")));
        for wrong in ["", "# none", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_!!!"] {
            let why = Secrets::parse(wrong).unwrap_err();
            assert!(!why.contains("short") && !why.contains("MfKQ"), "{why}");
        }
        assert!(!format!("{both:?}").contains("MfKQ"));
    }
}
