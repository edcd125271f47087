//! Where webhooks go: WEBHOOK_URL.

use std::str::FromStr;

use hyper::Uri;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// As in `Host`.
    authority: String,
    path: String,
}

impl Endpoint {
    /// Its name or address.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// With its query.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// The URL is not repeated: its path or query may be a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.trim().parse().map_err(|error| format!("it is no URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("TLS is for a proxy beside the process: give its address as http://".to_owned());
            }
            _ => return Err("it has to begin with http://".to_owned()),
        }
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("a user in it is not sent: the signature says who calls".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it has no host".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        let of = |text: &str| {
            let Endpoint { host, port, authority, path } = text.parse().unwrap();
            (host, port, authority, path)
        };
        let expected = |host: &str, port, authority: &str, path: &str| {
            (host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        assert_eq!(
            of("http://hooks.example.org"),
            expected("hooks.example.org", 80, "hooks.example.org", "/")
        );
        assert_eq!(of("http://[::1]:8080/a?b=c"), expected("::1", 8080, "[::1]:8080", "/a?b=c"));
        for (text, why) in [
            ("hooks.example.org/a", "no URL"),
            ("https://hooks.example.org", "TLS"),
            ("http://user:pass@hooks.example.org", "a user"),
            ("/a", "http://"),
            ("", "no URL"),
        ] {
            let refused = text.parse::<Endpoint>().unwrap_err();
            assert!(refused.contains(why) && !refused.contains("pass"), "{text}: {refused}");
        }
    }
}
