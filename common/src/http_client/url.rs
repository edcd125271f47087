//! Where a request goes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// Who is connected to.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its name or address, which under TLS it has to prove.
    pub host: &'a str,
    /// Whether it speaks TLS.
    pub has_tls: bool,
}

/// A URL that begins with `http` or `https`, without a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    has_tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    /// Whether it begins with `https`.
    pub fn has_tls(&self) -> bool {
        self.has_tls
    }

    /// Who is connected to.
    pub fn peer(&self) -> Peer<'_> {
        Peer { host: &self.host, has_tls: self.has_tls }
    }

    /// Its name or address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether others may read and change what is sent there: neither TLS nor this machine.
    pub fn is_in_clear_text(&self) -> bool {
        let is_loopback = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.has_tls && !is_loopback
    }

    /// Its port, also where it is the usual one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the header `Host` has them.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, with its query.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.has_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}/…", self.authority)
    }
}

impl FromStr for Url {
    type Err = String;

    /// The URL is not repeated: its path or query may be a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.trim().parse().map_err(|error| format!("it is no URL: {error}"))?;
        let has_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("it has to begin with https:// or http://".to_owned()),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("a user in it is not sent: leave out what is before the @".to_owned());
        }
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => usual_port(has_tls),
            port => port
                .trim_start_matches(':')
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("its port is none")?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it has no host".to_owned());
        }
        Ok(Self {
            has_tls,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

fn usual_port(has_tls: bool) -> u16 {
    if has_tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_shows_no_more() {
        let of = |text: &str| {
            let url: Url = text.parse().unwrap();
            (
                url.has_tls(),
                url.host().to_owned(),
                url.port(),
                url.authority().to_owned(),
                url.path().to_owned(),
            )
        };
        let expected = |has_tls, host: &str, port, authority: &str, path: &str| {
            (has_tls, host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        for (text, url) in [
            ("http://a.example", expected(false, "a.example", 80, "a.example", "/")),
            ("https://a.example", expected(true, "a.example", 443, "a.example", "/")),
            ("HTTPS://a.example:8443/x?y=z#t", expected(true, "a.example", 8443, "a.example:8443", "/x?y=z")),
            ("http://[::1]:8080/a?b=c", expected(false, "::1", 8080, "[::1]:8080", "/a?b=c")),
        ] {
            assert_eq!(of(text), url);
        }
        let shown = format!("{:?}", "https://a.example/hush?hush".parse::<Url>().unwrap());
        assert_eq!(shown, "https://a.example/…");
        for (text, is_in_clear_text) in [
            ("http://a", true),
            ("http://10.0.0.1", true),
            ("https://a", false),
            ("http://[::1]", false),
            ("http://LOCALHOST", false),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().is_in_clear_text(), is_in_clear_text, "{text}");
        }
        for (text, why) in [
            ("a.example/a", "no URL"),
            ("ftp://a.example", "https://"),
            ("http://user:pass@a.example", "a user"),
            ("/a", "https://"),
            ("", "no URL"),
            ("https://a.example:99999/", "port"),
            ("https://a.example:0/", "port"),
            ("https://a.example:/", "port"),
            ("https://[::1]:x/", ""),
            ("https://:443/", "no host"),
        ] {
            let refused = text.parse::<Url>().unwrap_err();
            assert!(refused.contains(why) && !refused.contains("pass"), "{text}: {refused}");
        }
    }
}
