//! The files of certificates and keys, in PEM, as Strimzi and cert-manager write them.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::processor;

/// Largest file that is read, in bytes: a system's bundle of all public CAs has 250 KB.
const MAX_FILE: u64 = 4 << 20;
/// Where systems keep the certificates of public CAs.
const SYSTEM_CAS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// By which variables the files are configured, for messages.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsVariables {
    /// That of the CAs.
    pub ca: &'static str,
    /// Those of the certificate and its key.
    pub identity: Option<(&'static str, &'static str)>,
}

/// The certificate that this process shows, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and below it those between it and its CA.
    pub certificate: PathBuf,
    /// The private key, not encrypted.
    pub key: PathBuf,
}

/// Where certificates and keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that may have signed the peer's certificate: a file, or a folder of which each `*.crt` and `*.pem`
    /// counts. Without one, the system's.
    pub ca: Option<PathBuf>,
    /// As whom this process presents itself, if the peer asks.
    pub identity: Option<Identity>,
    /// The variables.
    pub variables: &'static TlsVariables,
}

impl fmt::Display for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ca {
            Some(ca) => write!(f, "CA {}", ca.display())?,
            None => f.write_str("the system's CAs")?,
        }
        match &self.identity {
            Some(identity) => write!(f, ", certificate {}", identity.certificate.display()),
            None => Ok(()),
        }
    }
}

/// What tells a file from the one that was there before: its path, and what a replacement changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(PathBuf, Option<[i64; 6]>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let stamp = |found: Metadata| {
            let (inode, size) = (found.ino().cast_signed(), found.size().cast_signed());
            [inode, size, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()]
        };
        Self(path.to_owned(), fs::metadata(path).ok().map(stamp))
    }
}

impl TlsFiles {
    /// The state of each file. One that is not there has one too: it may come.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let paths = match &self.ca {
            Some(ca) => [ca.clone()].into_iter().chain(certificates_in(ca).unwrap_or_default()).collect(),
            None => SYSTEM_CAS.map(PathBuf::from).to_vec(),
        };
        let of_identity = self.identity.as_ref().map(stamps).unwrap_or_default();
        paths.iter().map(|path| Stamp::of(path)).chain(of_identity).collect()
    }

    /// Reads all of them. The error names the variable and the file.
    pub(super) fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = processor::provider()?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let variables = self.variables.identity.unwrap_or_default();
                let (chain, key) = chain_and_key(identity, variables)?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| no_pair(variables, &error))?
            }
        };
        // A resumed session shows no certificate: one that has expired meanwhile would go on being taken.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let variable = self.variables.ca;
        let Some(ca) = &self.ca else {
            let bundle = SYSTEM_CAS.iter().find_map(|path| certificates(Path::new(path)).ok());
            // A bundle has certificates of any age: those that cannot be used are left out.
            roots.add_parsable_certificates(bundle.unwrap_or_default());
            return match roots.is_empty() {
                true => Err(format!("this system has no CA certificates: set {variable}")),
                false => Ok(roots),
            };
        };
        let files = certificates_in(ca).map_err(|error| format!("{variable}: {}: {error}", ca.display()))?;
        if files.is_empty() {
            return Err(format!("{variable}: {} has no file *.crt or *.pem", ca.display()));
        }
        for file in files {
            for certificate in certificates(&file).map_err(|why| format!("{variable}: {why}"))? {
                let added = roots.add(certificate);
                added.map_err(|error| format!("{variable}: {}: {error}", file.display()))?;
            }
        }
        Ok(roots)
    }
}

/// The state of both files.
pub(super) fn stamps(identity: &Identity) -> Vec<Stamp> {
    [&identity.certificate, &identity.key].map(|path| Stamp::of(path)).into()
}

/// That of a server which shows this certificate and asks for none. The error names the variable and the file.
pub(super) fn server_config(identity: &Identity, variables: (&str, &str)) -> Result<ServerConfig, String> {
    let (chain, key) = chain_and_key(identity, variables)?;
    let mut config = ServerConfig::builder_with_provider(processor::provider()?)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| no_pair(variables, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn chain_and_key(
    Identity { certificate, key }: &Identity,
    (of_certificate, of_key): (&str, &str),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(certificate).map_err(|why| format!("{of_certificate}: {why}"))?;
    let key = private_key(key).map_err(|why| format!("{of_key}: {why}"))?;
    Ok((chain, key))
}

fn no_pair((of_certificate, of_key): (&str, &str), error: &rustls::Error) -> String {
    format!("{of_certificate} and {of_key}: they cannot be used together: {error}")
}

/// The file itself, or the files of certificates in a folder. While a CA is renewed, a secret of Strimzi's has
/// several.
fn certificates_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let is_certificate = file.extension().is_some_and(|end| end == "crt" || end == "pem");
        if is_certificate && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let found = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    // A pipe would be waited for without end.
    if !found.is_file() {
        return Err(format!("{shown} is no file"));
    }
    let size = found.len();
    if size > MAX_FILE {
        return Err(format!("{shown} has {size} bytes, the limit is {MAX_FILE}"));
    }
    fs::read(path).map_err(|error| format!("{shown}: {error}"))
}

/// The certificates of a file, in its order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{} has no certificate in PEM", path.display())),
        Err(_) => Err(format!("{} has a certificate that is not whole", path.display())),
    }
}

/// Nothing of the file is in the error.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("{} has no private key in PEM, or an encrypted one", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("ca.crt");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), dir.path()] {
            let error = certificates(path).unwrap_err();
            assert_eq!(error, format!("{} is no file", path.display()));
        }
    }
}
