//! A tree's size and root, signed: a checkpoint (c2sp.org/tlog-checkpoint), which is a signed note.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hash::Hash;
use crate::key::{Signer, Verifier};

/// A tree's origin, size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the tree, and of the key that signs it.
    pub origin: String,
    /// The number of its entries.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// Why a text is no valid checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// It has not the form of one.
    Form,
    /// No signature of its origin is by this key.
    Signature,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "it has not the form of a checkpoint",
            Self::Signature => {
                "it is not signed by this key: it was forged or changed, or the key is another's"
            }
        })
    }
}

impl std::error::Error for Invalid {}

impl Checkpoint {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The signed note.
    pub fn sign(&self, signer: &Signer) -> String {
        let text = self.text();
        format!("{text}\n\u{2014} {} {}\n", self.origin, signer.sign(&self.origin, &text))
    }

    /// Reads a signed note whose signature is by that key.
    pub fn open(note: &str, verifier: &Verifier) -> Result<Self, Invalid> {
        let checkpoint = Self::read(note)?;
        let (text, signatures) = note.split_once("\n\n").ok_or(Invalid::Form)?;
        let text = format!("{text}\n");
        let prefix = format!("\u{2014} {} ", checkpoint.origin);
        let mut own = signatures.lines().filter_map(|line| line.strip_prefix(&prefix));
        own.any(|signature| verifier.verifies(&checkpoint.origin, &text, signature))
            .then_some(checkpoint)
            .ok_or(Invalid::Signature)
    }

    /// Reads a signed note, whoever signed it.
    pub fn read(note: &str) -> Result<Self, Invalid> {
        let (text, _) = note.split_once("\n\n").ok_or(Invalid::Form)?;
        let mut lines = text.split('\n');
        let (origin, size, root) = (lines.next(), lines.next(), lines.next());
        let origin = origin.filter(|origin| !origin.is_empty()).ok_or(Invalid::Form)?.to_owned();
        let written = size.ok_or(Invalid::Form)?;
        let size: u64 = written.parse().map_err(|_| Invalid::Form)?;
        let root = root.and_then(|root| STANDARD.decode(root).ok()).and_then(|root| root.try_into().ok());
        let root = root.ok_or(Invalid::Form)?;
        // In its only spelling.
        (size.to_string() == written).then_some(Self { origin, size, root }).ok_or(Invalid::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; 32])
    }

    #[test]
    fn a_checkpoint_opens_with_its_key_alone_and_only_as_it_was_signed() {
        let checkpoint = Checkpoint { origin: "example/1".to_owned(), size: 257, root: [7; 32] };
        let note = checkpoint.sign(&signer(1));
        let verifier = signer(1).verifier();
        assert_eq!(Checkpoint::open(&note, &verifier), Ok(checkpoint.clone()));
        assert_eq!(Checkpoint::open(&note, &signer(2).verifier()), Err(Invalid::Signature));
        for (from, to) in [
            ("257", "258"),
            ("example/1\n", "example/2\n"),
            ("BwcH", "BwcI"),
            ("\u{2014} example/1", "\u{2014} example/2"),
        ] {
            let forged = note.replacen(from, to, 1);
            assert_ne!(forged, note);
            assert_eq!(Checkpoint::open(&forged, &verifier), Err(Invalid::Signature), "{forged}");
        }
        // Under another origin, by the same key.
        let other = Checkpoint { origin: "example/2".to_owned(), ..checkpoint };
        assert_eq!(Checkpoint::open(&other.sign(&signer(1)), &verifier).unwrap().origin, "example/2");
        for damaged in ["", "a\n1\n", "a\n01\nBwc=\n\nx", "\n1\nBwc=\n\n", "a\n-1\nx\n\n"] {
            assert_eq!(Checkpoint::read(damaged), Err(Invalid::Form), "{damaged:?}");
        }
    }
}
