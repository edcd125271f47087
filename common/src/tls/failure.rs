//! Why a handshake failed, in one line that says what to do.

use std::io;

use chrono::DateTime;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use super::files::TlsFiles;

/// Why there is no connection. Its text goes on after the name of the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub String);

/// Names of a certificate that are shown.
const MAX_NAMES: usize = 5;

/// Why a handshake with the host failed.
pub(super) fn explain(error: &io::Error, host: &str, files: &TlsFiles) -> TlsError {
    let ca = files.variables.ca;
    TlsError(match inner(error) {
        Some(Error::InvalidCertificate(refused)) => {
            format!("its certificate {}", certificate(refused, host, ca))
        }
        Some(Error::AlertReceived(alert)) if is_about_certificate(*alert) => {
            let hint = identity_hint(files);
            format!("it refuses this client's certificate, with the TLS alert {alert:?} ({hint})")
        }
        Some(Error::AlertReceived(alert)) => format!("it ended the TLS handshake with the alert {alert:?}"),
        Some(Error::InvalidMessage(_)) => {
            "it does not speak TLS: use the port of a listener with TLS, or switch TLS off".to_owned()
        }
        Some(Error::NoCertificatesPresented) => "it shows no certificate".to_owned(),
        Some(other) => format!("the TLS handshake failed: {other}"),
        None if is_closed(error) => {
            "it closed the connection during the TLS handshake: it is a listener without TLS, or it is just stopping"
                .to_owned()
        }
        None => format!("the TLS handshake failed: {error}"),
    })
}

/// What a peer was shown, and how that is configured.
pub(super) fn identity_hint(files: &TlsFiles) -> String {
    match (files.variables.identity, &files.identity) {
        (Some((certificate, _)), Some(identity)) => {
            format!("it was shown that of {certificate}, {}", identity.certificate.display())
        }
        (Some((certificate, key)), None) => format!("set {certificate} and {key}"),
        (None, _) => "it was shown none".to_owned(),
    }
}

fn certificate(refused: &CertificateError, host: &str, ca: &str) -> String {
    let day = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        DateTime::from_timestamp(seconds, 0).map_or_else(String::new, |time| time.to_rfc3339())
    };
    match refused {
        CertificateError::UnknownIssuer => {
            format!("is signed by no CA that is trusted here: give the CA that signed it by {ca}")
        }
        CertificateError::Expired => "has expired: renew it".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired on {}: renew it", day(not_after))
        }
        CertificateError::NotValidYet => {
            "is not valid yet: the clock of one of the two machines is wrong".to_owned()
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let day = day(not_before);
            format!("is not valid before {day}: the clock of one of the two machines is wrong")
        }
        CertificateError::NotValidForName => format!("is not for {host}: use a name that it has"),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            format!("is not for {host}: it has no subject alternative name")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let shown: Vec<_> = presented.iter().take(MAX_NAMES).map(|name| shown(name)).collect();
            format!("is not for {host} but for {}: use a name that it has", shown.join(", "))
        }
        other => format!("is refused: {other}"),
    }
}

/// `DnsName("a")`, as rustls presents a name, without what is around it.
fn shown(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(bare, _)| bare)
}

/// Whether a peer ended an established connection because of the certificate that it was shown, or was not: in TLS
/// 1.3, that comes after the handshake.
pub fn is_certificate_alert(error: &io::Error) -> bool {
    matches!(inner(error), Some(Error::AlertReceived(alert)) if is_about_certificate(*alert))
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::NoCertificate
    )
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}
