//! The client's side of SCRAM (RFC 5802, RFC 7677): both sides prove that they know the password, and neither sends it.
//!
//! # Invariants
//!
//! 1. *Nothing that a server sends panics or costs more than some [`MAX_ITERATIONS`]*: each field is checked before it
//!    is used.
//! 2. *No server is believed that does not know the password*: its signature is verified, and without it there is no
//!    login.

use std::str;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::{FixedOutput, OutputSizeUser};
use hmac::{Mac, SimpleHmac};
use sha2::digest::core_api::BlockSizeUser;
use sha2::digest::{Digest, KeyInit};
use sha2::{Sha256, Sha512};
use uuid::Uuid;

/// Rounds that a server may ask for. Kafka's own limits for a user's are 4,096 and 16,384; fewer would make the
/// password easy to guess for who records a login.
const MIN_ITERATIONS: u32 = 4_096;
/// Some 0.1 s of processor time.
const MAX_ITERATIONS: u32 = 100_000;
/// Longest message of a server that is read, in bytes.
const MAX_MESSAGE: usize = 4 * 1024;
/// `n,,` in base64: no channel binding, no other identity.
const CHANNEL_BINDING: &str = "biws";

/// The function that everything is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// A login that has begun.
pub(super) struct Exchange {
    hash: Hash,
    nonce: String,
    first_bare: String,
}

/// What the server has to prove.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected(Vec<u8>);

impl Exchange {
    pub(super) fn new(hash: Hash, username: &str) -> Self {
        Self::with_nonce(hash, username, Uuid::new_v4().simple().to_string())
    }

    fn with_nonce(hash: Hash, username: &str, nonce: String) -> Self {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={username},r={nonce}");
        Self { hash, nonce, first_bare }
    }

    /// The client's first message.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The client's last message, from the server's first. It takes as long as the server asks for: not for an async
    /// thread.
    pub(super) fn last(&self, password: &str, server_first: &[u8]) -> Result<(String, Expected), String> {
        let server_first = text(server_first)?;
        let Challenge { nonce, salt, iterations } = Challenge::read(server_first, &self.nonce)?;
        let without_proof = format!("c={CHANNEL_BINDING},r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let (proof, expected) = match self.hash {
            Hash::Sha256 => prove::<Sha256>(password, &salt, iterations, &message),
            Hash::Sha512 => prove::<Sha512>(password, &salt, iterations, &message),
        }?;
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)), Expected(expected)))
    }
}

impl Expected {
    /// Whether the server's last message proves that it knows the password.
    pub(super) fn verify(&self, server_last: &[u8]) -> Result<(), String> {
        let server_last = text(server_last)?;
        let mut fields = server_last.split(',');
        let first = fields.next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(format!("the broker refuses the login: {error}"));
        }
        let signature = first.strip_prefix("v=").and_then(|text| STANDARD.decode(text).ok());
        match signature {
            Some(signature) if signature == self.0 => Ok(()),
            Some(_) => {
                Err("the broker does not know the password: it is not the one that it claims to be"
                    .to_owned())
            }
            None => Err("the broker's last message is not SCRAM's".to_owned()),
        }
    }
}

/// The server's first message.
struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Challenge<'a> {
    fn read(message: &'a str, own_nonce: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("the broker's first message is not SCRAM's: {why}"));
        let mut fields = message.split(',');
        let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name));
        let Some(nonce) = field("r=") else { return wrong("it does not begin with a nonce") };
        if nonce.len() <= own_nonce.len() || !nonce.starts_with(own_nonce) {
            return wrong("its nonce does not go on from this client's");
        }
        let Some(salt) = field("s=").and_then(|salt| STANDARD.decode(salt).ok()) else {
            return wrong("it has no salt in base64");
        };
        if salt.is_empty() {
            return wrong("its salt is empty");
        }
        let Some(iterations) = field("i=").and_then(|count| count.parse().ok()) else {
            return wrong("it has no number of iterations");
        };
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return wrong(&format!(
                "it asks for {iterations} iterations, the limits are {MIN_ITERATIONS} and {MAX_ITERATIONS}"
            ));
        }
        Ok(Self { nonce, salt, iterations })
    }
}

/// Text, of printable characters alone.
fn text(message: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(message).ok().filter(|text| !text.contains(char::is_control));
    text.filter(|text| text.len() <= MAX_MESSAGE)
        .ok_or_else(|| "the broker's message is not SCRAM's: it is not text, or too long".to_owned())
}

/// The client's proof and the server's signature.
fn prove<D>(password: &str, salt: &[u8], iterations: u32, message: &str) -> Result<(Vec<u8>, Vec<u8>), String>
where
    D: Digest + BlockSizeUser + FixedOutput + Clone + Sync + OutputSizeUser,
    SimpleHmac<D>: Mac + KeyInit + Clone + Sync,
{
    let mut salted = vec![0; <D as Digest>::output_size()];
    pbkdf2::pbkdf2::<SimpleHmac<D>>(password.as_bytes(), salt, iterations, &mut salted)
        .map_err(|error| error.to_string())?;
    let client_key = keyed::<D>(&salted, b"Client Key")?;
    let stored_key = D::digest(&client_key);
    let client_signature = keyed::<D>(&stored_key, message.as_bytes())?;
    let proof = client_key.iter().zip(&client_signature).map(|(key, signature)| key ^ signature).collect();
    let server_key = keyed::<D>(&salted, b"Server Key")?;
    Ok((proof, keyed::<D>(&server_key, message.as_bytes())?))
}

fn keyed<D>(key: &[u8], message: &[u8]) -> Result<Vec<u8>, String>
where
    D: Digest + BlockSizeUser + FixedOutput + Clone,
{
    let mut mac = <SimpleHmac<D> as Mac>::new_from_slice(key).map_err(|error| error.to_string())?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn example() -> Exchange {
        Exchange::with_nonce(Hash::Sha256, "user", NONCE.to_owned())
    }

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let exchange = example();
        assert_eq!(exchange.first(), format!("n,,n=user,r={NONCE}"));
        let (last, expected) = exchange.last("pencil", SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(expected.verify(signature), Ok(()));
        assert!(expected.verify(b"v=AAAA").unwrap_err().contains("does not know the password"));
        assert!(expected.verify(b"e=other-error").unwrap_err().contains("other-error"));
        for garbage in ["", "v", "v=%", "x=1", "\u{0}"] {
            assert!(expected.verify(garbage.as_bytes()).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn whatever_a_server_sends_is_an_error_and_neither_a_panic_nor_a_wait() {
        let began = std::time::Instant::now();
        let nonce = format!("{NONCE}x");
        for message in [
            String::new(),
            ",".repeat(100),
            "r=".to_owned(),
            format!("r={NONCE},s=QQ==,i=4096"),
            "r=another,s=QQ==,i=4096".to_owned(),
            format!("r={nonce},s=QQ==,i=0"),
            format!("r={nonce},s=QQ==,i=1"),
            format!("r={nonce},s=QQ==,i=4095"),
            format!("r={nonce},s=QQ==,i=1000001"),
            format!("r={nonce},s=QQ==,i=4294967295"),
            format!("r={nonce},s=QQ==,i=99999999999"),
            format!("r={nonce},s=QQ==,i=-1"),
            format!("r={nonce},s=QQ==,i="),
            format!("r={nonce},s=,i=4096"),
            format!("r={nonce},s=Q,i=4096"),
            format!("r={nonce},i=4096"),
            format!("m=x,r={nonce},s=QQ==,i=4096"),
            "e=no".to_owned(),
            format!("r={nonce},s={},i=4096", "QQQQ".repeat(2_000)),
        ] {
            let outcome = example().last("pencil", message.as_bytes());
            assert!(outcome.is_err(), "{message}");
        }
        assert!(example().last("pencil", &[0xff; 20]).is_err());
        assert!(began.elapsed().as_secs() < 5);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), cut in 0_usize..100) {
            let near = SERVER_FIRST.get(..cut).unwrap_or(SERVER_FIRST);
            let spliced = [near.as_bytes(), &bytes].concat();
            for message in [&bytes, &spliced] {
                let _ = Expected(vec![1]).verify(message);
                if let Ok(message) = text(message) {
                    let _ = Challenge::read(message, NONCE);
                }
            }
        }
    }

    #[test]
    fn a_name_with_commas_is_encoded() {
        let exchange = Exchange::with_nonce(Hash::Sha512, "a,b=c", "n".to_owned());
        assert_eq!(exchange.first(), "n,,n=a=2Cb=3Dc,r=n");
    }
}
