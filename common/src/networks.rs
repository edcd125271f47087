//! Networks of IP addresses: which are named, and which are everybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<(u128, u32)>);

impl Networks {
    /// Addresses, and networks such as 10.0.0.0/8, separated by commas; for `clap`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
        let parse = |network: &str| {
            let wrong = || format!("'{network}' is neither an address nor a network such as 10.0.0.0/8");
            let (address, prefix) = match network.split_once('/') {
                Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(|_| wrong())?)),
                None => (network, None),
            };
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let (most, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
            let prefix = prefix.unwrap_or(most);
            if prefix > most {
                return Err(wrong());
            }
            Ok((bits(address), before + prefix))
        };
        Ok(Self(networks.map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        let differs = |network: u128| network ^ bits(address);
        self.0.iter().any(|(network, prefix)| differs(*network).leading_zeros() >= *prefix)
    }
}

/// The address as one of IPv6, where those of IPv4 have a place.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Whether the address is one of the internet, and of no network with a meaning of its own: of no host, site, link or
/// cloud's metadata, and of no tunnel to one, by IANA's registries of special-purpose addresses.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || matches!(
            (a, b, c),
            // This network; carrier-grade NAT; protocol assignments; 6to4 relays; benchmarks; multicast and reserved.
            (0 | 224..=255, _, _) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _)
        ))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Global unicast, without protocol assignments (Teredo among them), documentation and 6to4.
    a & 0xe000 == 0x2000
        && !matches!((a, b), (0x2001, 0..=0x01ff) | (0x2001, 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_is_below_them() {
        let networks = Networks::parse("10.0.0.0/8, 192.0.2.7,2001:db8::/32").unwrap();
        let contain = |address: &str| networks.contain(address.parse().unwrap());
        assert!(
            contain("10.1.2.3")
                && contain("::ffff:10.1.2.3")
                && contain("192.0.2.7")
                && contain("2001:db8::1")
        );
        assert!(!contain("11.0.0.1") && !contain("192.0.2.8") && !contain("2001:db9::1") && !contain("::1"));
        assert!(Networks::parse("0.0.0.0/0").unwrap().contain([8, 8, 8, 8].into()));
        assert!(Networks::parse("").unwrap().is_empty());
        for wrong in ["10.0.0.0/33", "proxy", "10.0.0.0/", "::/129"] {
            assert!(Networks::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_of_a_host_site_link_or_tunnel_is_not_public() {
        for internal in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(internal.parse().unwrap()), "{internal}");
        }
        for public in
            ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:4860:4860::8888", "2a00:1450::1", "::ffff:8.8.8.8"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
