//! Whose word for a client's address counts: TRUSTED_PROXIES.

use std::net::{IpAddr, SocketAddr};

use task_events::networks::Networks;

/// Networks of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Networks);

impl TrustedProxies {
    /// Addresses, and networks such as 10.0.0.0/8, separated by commas; for `clap`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Networks::parse(text).map(Self)
    }

    /// The client's address: the peer's, or the last that a trusted proxy was called from, by the lines of
    /// `X-Forwarded-For`. What stands before that, anybody may have written.
    pub(super) fn client<'a>(&self, peer: IpAddr, lines: impl Iterator<Item = &'a str>) -> IpAddr {
        let mut client = peer;
        if !self.0.contain(client) {
            return client;
        }
        let lines: Vec<&str> = lines.collect();
        for address in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = parse(address.trim()) else { break };
            client = address;
            if !self.0.contain(client) {
                break;
            }
        }
        client
    }
}

/// An address, as it is or as some proxies write it: in quotes, in brackets, with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_says_who_its_client_is() {
        let proxies = TrustedProxies::parse("10.0.0.0/8, 192.0.2.7,2001:db8::/32").unwrap();
        let client = |peer: &str, lines: &[&str]| {
            proxies.client(peer.parse().unwrap(), lines.iter().copied()).to_string()
        };
        assert_eq!(client("198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        assert_eq!(client("10.1.2.3", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.1.2.3", &["203.0.113.9"]), "203.0.113.9");
        // What the client itself wrote stands first.
        assert_eq!(client("192.0.2.7", &["1.1.1.1, 203.0.113.9, 10.0.0.4", "2001:db8::1"]), "203.0.113.9");
        assert_eq!(client("192.0.2.7", &["203.0.113.9, what, 10.0.0.4"]), "10.0.0.4");
        assert_eq!(client("192.0.2.8", &["203.0.113.9"]), "192.0.2.8");
        for written in
            ["203.0.113.9:5123", "\"203.0.113.9\"", "[2001:db9::1]:443", "[2001:db9::1]", "2001:db9::1"]
        {
            assert!(
                ["203.0.113.9", "2001:db9::1"].contains(&client("10.1.2.3", &[written]).as_str()),
                "{written}"
            );
        }
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
        let nobody = TrustedProxies::parse("").unwrap();
        assert_eq!(nobody.client([10, 1, 2, 3].into(), ["1.1.1.1"].into_iter()).to_string(), "10.1.2.3");
    }
}
