//! `taskctl audit keygen`: a pair of Ed25519 keys in PEM.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use audit_tree::{Signer, Verifier, Witness};
use clap::Args;
use task_events::error_code::Code;

use crate::Error;

/// Where the keys go.
#[derive(Debug, Args)]
pub struct Keygen {
    /// The file of the private key (AUDIT_KEY_FILE of audit-service); the public one gets .pub behind the name
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Keygen) -> Result<(), Error> {
    let path = &args.path;
    let mut public = path.clone().into_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    let refused = |path: &Path, error: io::Error| {
        Error::Refused(Code::File, format!("{} cannot be made: {error}", path.display()))
    };
    let mut seed = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed));
    random.map_err(|error| refused(path, error))?;
    let signer = Signer::from_seed(&seed);
    // Never in the place of a key that is in use.
    for (path, mode, text) in [(path, 0o600, signer.to_pem()), (&public, 0o644, signer.verifier().to_pem())] {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written =
            file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| refused(path, error))?;
    }
    writeln!(
        io::stdout(),
        "{}: the private key, for AUDIT_KEY_FILE of audit-service\n{}: the public key, for `taskctl audit verify --public-key`; keep it where the log is not",
        path.display(),
        public.display()
    )?;
    Ok(())
}

/// Reads a public key, or that of a private one.
pub(super) fn read(path: &Path) -> Result<Verifier, Error> {
    let refused =
        |why: String| Error::Refused(Code::AuditKey, format!("key {} cannot be used: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Verifier::from_pem(&text).map_err(|error| refused(error.to_string()))
}

/// Reads the public key of a witness.
pub(super) fn read_witness(path: &Path) -> Result<Witness, Error> {
    let refused =
        |why: &str| Error::Refused(Code::AuditKey, format!("key {} cannot be used: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error.to_string()))?;
    Witness::from_vkey(&text)
        .ok_or_else(|| refused("it is no key of a witness, as NAME+ID+KEY of cosignature/v1"))
}
