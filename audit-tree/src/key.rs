//! Ed25519 keys in PEM, as `openssl genpkey -algorithm ed25519` writes them, and their names in signed notes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// What comes before the 32 bytes of a private key in PKCS #8, and of a public key in SubjectPublicKeyInfo (RFC 8410).
const PRIVATE: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PUBLIC: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// The kind of a signature by Ed25519 in a signed note.
const ED25519: u8 = 1;

/// Why a text is no key. It never has the text in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// It is no PEM of that label.
    NotPem(&'static str),
    /// It is a key of another kind.
    NotEd25519,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem(label) => {
                write!(f, "it has no -----BEGIN {label}-----: make keys with `taskctl audit keygen`")
            }
            Self::NotEd25519 => f.write_str("it is no Ed25519 key: make keys with `taskctl audit keygen`"),
        }
    }
}

impl std::error::Error for KeyError {}

/// Signs checkpoints.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A key from 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a private key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(&decode(text, "PRIVATE KEY", PRIVATE)?))
    }

    /// The private key as PEM.
    pub fn to_pem(&self) -> String {
        encode("PRIVATE KEY", PRIVATE, &self.0.to_bytes())
    }

    /// What verifies its signatures.
    pub fn verifier(&self) -> Verifier {
        Verifier(self.0.verifying_key())
    }

    /// The signature of a note's text as it is in the note, by the key under that name.
    pub(crate) fn sign(&self, name: &str, text: &str) -> String {
        let signature = self.0.sign(text.as_bytes());
        STANDARD.encode([self.verifier().id(name).as_slice(), &signature.to_bytes()].concat())
    }
}

/// Verifies checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier(VerifyingKey);

impl Verifier {
    /// Reads a public key; of a private one the public part.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if let Ok(signer) = Signer::from_pem(text) {
            return Ok(signer.verifier());
        }
        let key = decode(text, "PUBLIC KEY", PUBLIC)?;
        VerifyingKey::from_bytes(&key).map(Self).map_err(|_| KeyError::NotEd25519)
    }

    /// The public key as PEM.
    pub fn to_pem(&self) -> String {
        encode("PUBLIC KEY", PUBLIC, self.0.as_bytes())
    }

    /// The key under that name as tools of Go take it: `name+id+key`.
    pub fn vkey(&self, name: &str) -> String {
        let id: String = self.id(name).iter().map(|byte| format!("{byte:02x}")).collect();
        let key = STANDARD.encode([&[ED25519], self.0.as_bytes().as_slice()].concat());
        format!("{name}+{id}+{key}")
    }

    fn id(&self, name: &str) -> [u8; 4] {
        let hash =
            Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(self.0.as_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = hash;
        [a, b, c, d]
    }

    /// Whether that is this key's signature of the text, under that name.
    pub(crate) fn verifies(&self, name: &str, text: &str, signature: &str) -> bool {
        let Ok(bytes) = STANDARD.decode(signature) else { return false };
        let Some((id, signature)) = bytes.split_at_checked(4) else { return false };
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        id == self.id(name) && self.0.verify_strict(text.as_bytes(), &signature).is_ok()
    }
}

fn encode(label: &str, before: &[u8], key: &[u8; 32]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode([before, key].concat()))
}

fn decode(text: &str, label: &'static str, before: &[u8]) -> Result<[u8; 32], KeyError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let (body, _) = body.ok_or(KeyError::NotPem(label))?;
    let base64: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(base64).map_err(|_| KeyError::NotEd25519)?;
    let key = der.strip_prefix(before).and_then(|key| key.try_into().ok());
    key.ok_or(KeyError::NotEd25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_openssl_are_read_and_written_as_it_does() {
        // `openssl genpkey -algorithm ed25519`, of the key in RFC 8410, section 10.3.
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let signer = Signer::from_pem(private).unwrap();
        assert_eq!((signer.to_pem().as_str(), signer.verifier().to_pem().as_str()), (private, public));
        assert_eq!(Verifier::from_pem(public).unwrap(), Verifier::from_pem(private).unwrap());
        assert_eq!(format!("{signer:?}"), "Signer");
        assert_eq!(Signer::from_pem(public).unwrap_err(), KeyError::NotPem("PRIVATE KEY"));
        let other = private.replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vx");
        assert_eq!(Signer::from_pem(&other).unwrap_err(), KeyError::NotEd25519);
        assert!(Verifier::from_pem("x").is_err());
    }
}
