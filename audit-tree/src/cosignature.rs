//! Signatures of witnesses on checkpoints: cosignature/v1 of c2sp.org/tlog-cosignature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// The kind of such a signature in a signed note.
const COSIGNATURE: u8 = 4;

/// A witness: its name and public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    name: String,
    key: VerifyingKey,
}

impl Witness {
    /// Reads a key as witnesses publish it, `name+id+key`. `None`: it is none of that kind.
    pub fn from_vkey(text: &str) -> Option<Self> {
        let mut parts = text.trim().rsplitn(2, '+');
        // Of base64 the last part may have a plus sign itself: what is before it ends with the id.
        let (mut key, mut before) = (parts.next()?.to_owned(), parts.next()?);
        loop {
            let id = before.rsplit_once('+').map(|(_, id)| id);
            if id.is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
                break;
            }
            let (earlier, part) = before.rsplit_once('+')?;
            (key, before) = (format!("{part}+{key}"), earlier);
        }
        let (name, id) = before.rsplit_once('+')?;
        let key: [u8; 33] = STANDARD.decode(key).ok()?.try_into().ok()?;
        let [COSIGNATURE, key @ ..] = key else { return None };
        let key = VerifyingKey::from_bytes(&key).ok()?;
        let witness = Self { name: name.to_owned(), key };
        let is_valid = !name.is_empty() && !name.contains(char::is_whitespace);
        let own: String = witness.id().iter().map(|byte| format!("{byte:02x}")).collect();
        (is_valid && own.eq_ignore_ascii_case(id)).then_some(witness)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; 4] {
        let hash = Sha256::new().chain_update(&self.name).chain_update([b'\n', COSIGNATURE]);
        let hash: [u8; 32] = hash.chain_update(self.key.as_bytes()).finalize().into();
        let [a, b, c, d, ..] = hash;
        [a, b, c, d]
    }

    /// Of lines of signatures, one that this witness has given on the text of a note (without the empty line that ends
    /// it): the line, and when it was given, in seconds since 1970.
    pub fn find<'a>(&self, note: &str, signatures: &'a str) -> Option<(&'a str, u64)> {
        let (text, _) = note.split_once("\n\n")?;
        let prefix = format!("\u{2014} {} ", self.name);
        signatures.lines().find_map(|line| {
            let bytes = STANDARD.decode(line.strip_prefix(&prefix)?).ok()?;
            let (id, rest) = bytes.split_at_checked(4)?;
            let (time, signature) = rest.split_at_checked(8)?;
            let time = u64::from_be_bytes(time.try_into().ok()?);
            let signed = format!("cosignature/v1\ntime {time}\n{text}\n");
            let signature = Signature::from_slice(signature).ok()?;
            let is_valid = id == self.id() && self.key.verify_strict(signed.as_bytes(), &signature).is_ok();
            is_valid.then_some((line, time))
        })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    const NOTE: &str =
        "example/log\n7\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n\u{2014} example/log x\n";

    fn vkey(name: &str, key: &SigningKey) -> String {
        let public = [&[COSIGNATURE], key.verifying_key().as_bytes().as_slice()].concat();
        let witness = Witness { name: name.to_owned(), key: key.verifying_key() };
        let id: String = witness.id().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}+{id}+{}", STANDARD.encode(public))
    }

    fn line(name: &str, key: &SigningKey, time: u64, note: &str) -> String {
        let (text, _) = note.split_once("\n\n").unwrap();
        let signature = key.sign(format!("cosignature/v1\ntime {time}\n{text}\n").as_bytes());
        let id = Witness { name: name.to_owned(), key: key.verifying_key() }.id();
        let bytes = [id.as_slice(), &time.to_be_bytes(), &signature.to_bytes()].concat();
        format!("\u{2014} {name} {}\n", STANDARD.encode(bytes))
    }

    #[test]
    fn a_cosignature_is_found_among_others_and_holds_for_its_note_its_name_and_its_time() {
        for seed in 0..40_u8 {
            let (key, other) = (SigningKey::from_bytes(&[seed; 32]), SigningKey::from_bytes(&[99; 32]));
            let witness = Witness::from_vkey(&format!("{}\n", vkey("w.example/1", &key))).unwrap();
            assert_eq!(witness.name(), "w.example/1");
            let own = line("w.example/1", &key, 1_700_000_000, NOTE);
            let lines =
                [line("w.example/1", &other, 5, NOTE), "\u{2014} w.example/1 !\n".to_owned(), own.clone()];
            assert_eq!(witness.find(NOTE, &lines.concat()), Some((own.trim_end(), 1_700_000_000)));
            assert_eq!(witness.find(&NOTE.replace("\n7\n", "\n8\n"), &own), None);
            assert_eq!(witness.find(NOTE, &line("w.example/2", &key, 5, NOTE)), None);
            let mut bytes = STANDARD.decode(own.trim_end().rsplit_once(' ').unwrap().1).unwrap();
            bytes[11] ^= 1;
            let later = format!("\u{2014} w.example/1 {}\n", STANDARD.encode(bytes));
            assert_eq!(witness.find(NOTE, &later), None, "another time");
        }
    }

    #[test]
    fn what_is_no_key_of_a_witness_is_none() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let good = vkey("w", &key);
        assert!(Witness::from_vkey(&good).is_some());
        for bad in ["", "w", "+", "w+00000000+", &good[1..], &format!("x{good}"), &good[..good.len() - 4]] {
            assert_eq!(Witness::from_vkey(bad), None, "{bad}");
        }
        // The key of a log.
        let log = crate::Signer::from_seed(&[1; 32]).verifier().vkey("w");
        assert_eq!(Witness::from_vkey(&log), None);
    }
}
