//! What binds a login to the TLS connection that it is made on: `tls-server-end-point` (RFC 5929), the hash of the
//! server's certificate. A server in the middle, with another certificate, cannot pass the login on.

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio_rustls::client::TlsStream;

use super::validity::element;

/// The ends of the signature algorithms' identifiers: ECDSA (1.2.840.10045.4.3), RSA (1.2.840.113549.1.1).
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];

/// The hash of the server's certificate, by the hash of its signature; none for a signature that has no such hash
/// or another one than SHA-2.
pub fn channel_binding<S>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    hash(certificate)
}

fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, content, _) = element(certificate)?;
    let (_, _, rest) = element(content)?;
    let (_, algorithm, _) = element(rest)?;
    let (_, identifier, _) = element(algorithm)?;
    let last = |prefix| identifier.strip_prefix(prefix).and_then(<[u8]>::first).copied();
    match (last(ECDSA), last(RSA)) {
        (Some(2), _) | (_, Some(11)) => Some(Sha256::digest(certificate).to_vec()),
        (Some(3), _) | (_, Some(12)) => Some(Sha384::digest(certificate).to_vec()),
        (Some(4), _) | (_, Some(13)) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use harness::{Authority, Validity};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_signature_and_damage_is_none_and_no_panic() {
        let issued = Authority::new("a").unwrap().issue("b", &["localhost"], Validity::Valid).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec();
        assert_eq!(hash(&der), Some(Sha256::digest(&der).to_vec()));
        let of_ecdsa = [ECDSA, &[2]].concat();
        let at = der.windows(of_ecdsa.len()).rposition(|part| part == of_ecdsa).unwrap() + ECDSA.len();
        for (algorithm, length) in [(3, Some(48)), (4, Some(64)), (1, None)] {
            let mut other = der.clone();
            other[at] = algorithm;
            assert_eq!(hash(&other).map(|hash| hash.len()), length);
        }
        for end in 0..at {
            assert_eq!(hash(&der[..end]), None, "cut at {end}");
        }
        for at in 0..der.len() {
            let mut damaged = der.clone();
            damaged[at] ^= 0xff;
            hash(&damaged);
        }
    }
}
