//! `host[:port]`, as it is in the headers `Host` and `Origin`, in a request's target, and in ALLOWED_HOSTS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host, in the one form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// An address; one of IPv4 is never written as one of IPv6.
    Address(IpAddr),
    /// A name in lower case, without the dot that may end it.
    Name(String),
}

/// A host with a port, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

impl Host {
    /// `None` where it is neither a name nor an address. An address of IPv6 is in brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let address: Ipv6Addr = bracketed.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if name.is_empty() || name.starts_with('.') || name.len() > 253 || !name.bytes().all(is_legal) {
            return None;
        }
        match name.parse::<Ipv4Addr>() {
            Ok(address) => Some(Self::Address(address.into())),
            Err(_) => Some(Self::Name(name.to_ascii_lowercase())),
        }
    }

    /// Whether only this machine is meant, whatever a name server says: `*.localhost` by RFC 6761.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl Authority {
    /// `None` where it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let colon =
            text.rfind(':').filter(|colon| !text.get(*colon..).is_some_and(|rest| rest.contains(']')));
        let (host, port) = match colon {
            Some(colon) => (text.get(..colon)?, text.get(colon + 1..)?),
            None => (text, ""),
        };
        let port = match port {
            "" => None,
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        let name = |name: &str| Some(Host::Name(name.to_owned()));
        let address = |address: &str| Some(Host::Address(address.parse().unwrap()));
        for (text, host, port) in [
            ("localhost", name("localhost"), None),
            ("LocalHost.:8000", name("localhost"), Some(8000)),
            ("tasks.example.org:", name("tasks.example.org"), None),
            ("my_service:1", name("my_service"), Some(1)),
            ("127.0.0.1:8000", address("127.0.0.1"), Some(8000)),
            ("127.0.0.1.", address("127.0.0.1"), None),
            ("127.1", name("127.1"), None),
            ("[::1]:65535", address("::1"), Some(65535)),
            ("[0:0::1]", address("::1"), None),
            ("[::ffff:127.0.0.1]", address("127.0.0.1"), None),
        ] {
            assert_eq!(Authority::parse(text), host.map(|host| Authority { host, port }), "{text}");
        }
        for wrong in [
            "",
            ".",
            ":8000",
            "..",
            ".a",
            "a b",
            "a/b",
            "a@b",
            "user:pass@a",
            "a:b",
            "a:65536",
            "a:+1",
            "a:1:2",
            "::1",
            "[::1",
            "[::1%lo]",
            "[a]",
            "[::1]x",
            "[::1]x:1",
            "ä",
            "a,b",
            "a\u{0}",
            "http://a",
        ] {
            assert_eq!(Authority::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn loopback_is_only_this_machine() {
        let is_loopback = |text: &str| Authority::parse(text).unwrap().host.is_loopback();
        for own in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "127.255.0.9:1",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "localhost.example.org",
            "notlocalhost",
            "0.0.0.0",
            "[::]",
            "128.0.0.1",
            "127.0.0.1.example.org",
            "127.1",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
