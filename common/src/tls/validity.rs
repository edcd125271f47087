//! Until when a certificate is valid. Of its DER, no more is read than what leads there.

use chrono::{DateTime, NaiveDateTime, Utc};

const SEQUENCE: u8 = 0x30;
/// The version of a certificate, which may be left out.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity; none where it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let (_, certificate, _) = element(certificate)?;
    let (tag, mut rest, _) = element(certificate)?;
    if tag != SEQUENCE {
        return None;
    }
    if let Some((VERSION, _, after)) = element(rest) {
        rest = after;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let digits = match tag {
        // Two digits of the year: 1950 to 2049.
        UTC_TIME if digits.get(..2)? >= "50" => format!("19{digits}"),
        UTC_TIME => format!("20{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    NaiveDateTime::parse_from_str(&digits, "%Y%m%d%H%M%S").ok().map(|time| time.and_utc())
}

/// The tag and the content of the first element, and what follows it.
pub(super) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first & 0x7f {
        short if *first < 0x80 => (usize::from(short), rest),
        // The length has up to four bytes of its own.
        count @ 1..=4 => {
            let (length, rest) = rest.split_at_checked(usize::from(count))?;
            (length.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use harness::{Authority, Validity};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_last_day_of_a_certificate_is_read_and_damage_is_no_date_and_no_panic() {
        let authority = Authority::new("a").unwrap();
        for (validity, last) in [(Validity::Valid, "2045-01-01"), (Validity::Expired, "2021-01-01")] {
            let certificate = authority.issue("b", &["localhost"], validity).unwrap();
            let der = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
            assert_eq!(not_after(&der).unwrap().date_naive().to_string(), last);
            for end in 0..der.len() {
                assert_eq!(not_after(&der[..end]), None, "cut at {end}");
            }
            for at in 0..der.len() {
                let mut damaged = der.to_vec();
                damaged[at] ^= 0xff;
                not_after(&damaged);
            }
        }
    }
}
