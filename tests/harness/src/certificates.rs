//! Certificate authorities of the tests' own, and what they sign. In PEM, as files.

use crate::{Error, Result};
use graviola::hashing::Sha256;
use graviola::signing::ecdsa::{P256, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Certificates are made of so many numbers, each once in a process.
static SERIAL: AtomicU64 = AtomicU64::new(1);
/// Largest encoding of what is made here, in bytes.
const MAX_DER: usize = 512;

/// Whether a certificate is valid today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It is.
    Valid,
    /// It was.
    Expired,
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, Key>,
}

/// A certificate and its private key, in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// The key, in PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let key = Key::new()?;
        let mut params = params(name, &[], Validity::Valid, &key)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate of that name, for these hosts.
    pub fn issue(&self, name: &str, hosts: &[&str], validity: Validity) -> Result<Certificate> {
        let key = Key::new()?;
        let mut params = params(name, hosts, validity, &key)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Certificate { certificate, key: key.pem()? })
    }
}

impl Certificate {
    /// Writes both into a folder as `NAME.crt` and `NAME.key`, replacing those that are there in one step each.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let certificate = folder.join(format!("{name}.crt"));
        let key = folder.join(format!("{name}.key"));
        replace(&certificate, &self.certificate)?;
        replace(&key, &self.key)?;
        Ok((certificate, key))
    }

    /// Both as one text, key first, as Kafka reads it.
    pub fn key_store(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }
}

/// Writes a file, or replaces the one of that name, in one step.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| Error::file(path, error))
}

fn params(name: &str, hosts: &[&str], validity: Validity, key: &Key) -> Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SERIAL.fetch_add(1, Ordering::Relaxed).into());
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match validity {
        Validity::Valid => date_time_ymd(2045, 1, 1),
        Validity::Expired => date_time_ymd(2021, 1, 1),
    };
    // Any bytes do that differ from key to key.
    params.key_identifier_method = KeyIdMethod::PreSpecified(key.point.iter().copied().take(20).collect());
    Ok(params)
}

/// A key of the kind that rcgen would make with ring.
struct Key {
    key: SigningKey<P256>,
    /// The public key, uncompressed.
    point: Vec<u8>,
}

impl Key {
    fn new() -> Result<Self> {
        /// Of an uncompressed point of this curve, in bytes.
        const POINT: usize = 65;
        let key = SigningKey::<P256>::generate().map_err(failed)?;
        let mut buffer = [0; MAX_DER];
        let spki = key.to_spki_der(&mut buffer).map_err(failed)?;
        let point = spki.last_chunk::<POINT>().map(|point| point.to_vec());
        let point = point.ok_or_else(|| Error::failed("a public key is too short"))?;
        Ok(Self { key, point })
    }

    fn pem(&self) -> Result<String> {
        use base64::Engine as _;
        let mut buffer = [0; MAX_DER];
        let der = self.key.to_pkcs8_der(&mut buffer).map_err(failed)?;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let mut lines = String::new();
        for (at, character) in text.chars().enumerate() {
            if at > 0 && at.is_multiple_of(64) {
                lines.push('\n');
            }
            lines.push(character);
        }
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n"))
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, rcgen::Error> {
        let mut buffer = [0; MAX_DER];
        let signed = self.key.sign_asn1::<Sha256>(&[message], &mut buffer);
        signed.map(<[u8]>::to_vec).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn failed(error: impl std::fmt::Debug) -> Error {
    Error::failed(format!("a certificate cannot be made: {error:?}"))
}
