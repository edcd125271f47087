//! JSON Web Tokens of an issuer, by its public keys (RFC 7519, RFC 8725).
//!
//! # Invariants
//!
//! 1. *The key says the algorithm, not the token*: RS256, ES256 or EdDSA by the key's own type. So no token is taken
//!    that is unsigned, or signed with a public key as a secret.
//! 2. *A token is for this API*: issuer and audience are those that are configured, and it has an end.
//! 3. A caller's name begins with `jwt:`, so that no issuer can name somebody of the token file.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use task_events::access::Scopes;
use task_events::escape::is_control;

use super::caller::Caller;

/// Difference that the clocks of issuer and API may have, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Length of an RSA key's modulus, in bytes: 2,048 to 4,096 bits, which is what is verified.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// Keys of one type and name that are tried: during a rotation there are two.
const MAX_NAMESAKES: usize = 3;
/// Why a set is refused that has no key to verify with.
pub(super) const NO_KEY: &str = "it has no key for RS256 (2,048 to 4,096 bits), ES256 or EdDSA";
/// Longest part of an error that is shown, in characters.
const MAX_REASON: usize = 200;
/// Longest name that an issuer gives, in bytes.
const MAX_SUBJECT: usize = 256;

/// Whose tokens are taken, and which.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// `iss`.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
}

/// Why a token proves no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its key is not in the set, or not to be told from others: a later set may help.
    Key,
    /// It is none, whatever the keys.
    Token,
}

/// The keys of a JWK set that verify tokens.
pub(super) struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// RFC 8693: separated by spaces.
    scope: Option<String>,
    /// What some issuers write in its place: a text or a list.
    scp: Option<Scp>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scp {
    Text(String),
    List(Vec<String>),
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Keys {
    /// Of a JWK set, the keys that are for signatures and of a kind that is taken. Others are somebody else's.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::published(text)?.ok_or_else(|| NO_KEY.to_owned())
    }

    /// The same of a set that may have none.
    pub(super) fn published(text: &str) -> Result<Option<Self>, String> {
        let set: Set = serde_json::from_str(text).map_err(|error| {
            // It may repeat what is wrong, as long as that is.
            let why: String = error.to_string().chars().take(MAX_REASON).collect();
            format!("it is no JWK set: {why}")
        })?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(key).collect();
        Ok(if keys.is_empty() { None } else { Some(Self(keys)) })
    }

    /// The caller that a token proves.
    pub(super) fn caller(&self, token: &str, issuer: &Issuer) -> Result<Caller, Refusal> {
        let header = decode_header(token).map_err(|_| Refusal::Token)?;
        if header.crit.is_some() {
            return Err(Refusal::Token);
        }
        // Keys of different types may have one id, and a new key that of the one before it.
        let is_meant = |key: &&Key| {
            let is_named = header.kid.as_ref().map_or(self.0.len() == 1, |id| key.id.as_ref() == Some(id));
            is_named && key.algorithm == header.alg
        };
        let mut refusal = Refusal::Key;
        for key in self.0.iter().filter(is_meant).take(MAX_NAMESAKES) {
            match claims(key, token, issuer) {
                Ok(claims) => return claims.caller().ok_or(Refusal::Token),
                Err(error) => {
                    log::debug!("a JWT is refused: {error}");
                    if !matches!(error.kind(), ErrorKind::InvalidSignature) {
                        return Err(Refusal::Token);
                    }
                }
            }
            // Where keys have no name, one is replaced without a sign of it.
            refusal = if header.kid.is_some() { Refusal::Token } else { Refusal::Key };
        }
        Err(refusal)
    }
}

/// What a token says that the key has signed for this API.
fn claims(key: &Key, token: &str, issuer: &Issuer) -> jsonwebtoken::errors::Result<Claims> {
    let mut validation = Validation::new(key.algorithm);
    validation.algorithms = vec![key.algorithm];
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[&issuer.issuer]);
    validation.set_audience(&[&issuer.audience]);
    Ok(decode::<Claims>(token, &key.key, &validation)?.claims)
}

impl Claims {
    /// Whom they name; none without a name that can be shown.
    fn caller(self) -> Option<Caller> {
        let Self { sub, scope, scp } = self;
        if sub.is_empty()
            || sub.len() > MAX_SUBJECT
            || sub.contains(|c: char| is_control(c) || c.is_whitespace())
        {
            return None;
        }
        let names = scope.iter().flat_map(|scope| scope.split(' ')).chain(match &scp {
            Some(Scp::Text(names)) => names.split(' ').collect::<Vec<_>>(),
            Some(Scp::List(names)) => names.iter().map(String::as_str).collect(),
            None => Vec::new(),
        });
        Some(Caller { actor: Arc::from(format!("jwt:{sub}")), scopes: Scopes::known(names) })
    }
}

/// The key, if it is one to verify with.
fn key(json: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if RSA_BYTES.contains(&modulus_bytes(&rsa.n)?) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|named| named.to_string().parse::<Algorithm>());
    if named.is_some_and(|named| named.ok() != Some(algorithm)) {
        return None;
    }
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(&jwk).ok()? })
}

fn modulus_bytes(modulus: &str) -> Option<usize> {
    let bytes = URL_SAFE_NO_PAD.decode(modulus).ok()?;
    Some(bytes.iter().skip_while(|byte| **byte == 0).count())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use task_events::access::Scope;

    use super::*;

    const KEYS: &str = include_str!("../../tests/golden/jwt/jwks.json");
    const TOKENS: &str = include_str!("../../tests/golden/jwt/tokens.json");

    fn issuer() -> Issuer {
        Issuer { issuer: "https://issuer.example.org".to_owned(), audience: "task-api".to_owned() }
    }

    #[test]
    fn tokens_of_another_implementation_are_taken_or_refused() {
        let keys = Keys::parse(KEYS).unwrap();
        assert_eq!(keys.to_string(), "3 keys");
        let tokens: BTreeMap<String, String> = serde_json::from_str(TOKENS).unwrap();
        for (name, token) in &tokens {
            let caller = keys.caller(token, &issuer()).ok();
            let scopes = caller.as_ref().map(|caller| {
                assert_eq!(caller.actor.as_ref(), "jwt:zoë|7", "{name}");
                [Scope::Read, Scope::Write].map(|scope| caller.scopes.contain(scope))
            });
            let wanted = match name.split('-').next().unwrap() {
                "good" => Some([true, true]),
                "read" => Some([true, false]),
                "none" => Some([false, false]),
                _ => None,
            };
            assert_eq!(scopes, wanted, "{name}");
        }
        assert!(tokens.len() > 30);
    }

    #[test]
    fn any_change_of_a_token_makes_it_none() {
        let keys = Keys::parse(KEYS).unwrap();
        let tokens: BTreeMap<String, String> = serde_json::from_str(TOKENS).unwrap();
        let token = &tokens["good-eddsa"];
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.caller(&changed, &issuer()).is_err(), "{at}");
            assert!(keys.caller(&token[..at], &issuer()).is_err(), "{at}");
        }
    }

    /// That of RFC 7517, appendix A.1, under the id of the issuer's.
    fn another_ec_key() -> Value {
        serde_json::json!({
            "kty": "EC", "crv": "P-256", "kid": "ec",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        })
    }

    #[test]
    fn a_new_key_is_found_whatever_its_id() {
        let tokens: BTreeMap<String, String> = serde_json::from_str(TOKENS).unwrap();
        let result = |keys: &Keys, token: &str| keys.caller(&tokens[token], &issuer()).map(drop);
        let set: Value = serde_json::from_str(KEYS).unwrap();
        let ours = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == "ec").unwrap().clone();
        let of = |keys: Vec<Value>| Keys::parse(&serde_json::json!({ "keys": keys }).to_string()).unwrap();
        let mut unnamed = another_ec_key();
        unnamed.as_object_mut().unwrap().remove("kid");
        // Appended under the id of the one before it.
        let both = of(vec![another_ec_key(), ours.clone()]);
        assert_eq!(result(&both, "good-es256"), Ok(()));
        assert_eq!(result(&both, "bad-expired"), Err(Refusal::Token));
        // In its place under its id, which nothing shows.
        assert_eq!(result(&of(vec![another_ec_key()]), "good-es256"), Err(Refusal::Token));
        // Without ids, what is not signed by the only key may be by the next one.
        assert_eq!(result(&of(vec![ours.clone()]), "bad-no-kid"), Ok(()));
        assert_eq!(result(&of(vec![unnamed.clone()]), "bad-no-kid"), Err(Refusal::Key));
        assert_eq!(result(&of(vec![unnamed, ours]), "bad-no-kid"), Err(Refusal::Key));
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        for text in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
        let long = format!(r#"{{"keys":"{}"}}"#, "x".repeat(100_000));
        assert!(Keys::parse(&long).unwrap_err().len() < 300);
    }
}
