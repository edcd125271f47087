//! One address of a registry.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::host_port;

/// An address of a registry: `https://host:port` or `http://host:port`, perhaps with a path below which its API is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    has_tls: bool,
    host_port: String,
    /// Without a slash at its end.
    path: String,
    user: Option<User>,
}

/// User and password of an address, `user:password`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct User(String);

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a user and a password)")
    }
}

impl Address {
    /// Whether it begins with https.
    pub fn has_tls(&self) -> bool {
        self.has_tls
    }

    /// The host, an IPv6 address in brackets.
    pub(super) fn host(&self) -> &str {
        self.host_port.rsplit_once(':').map_or(self.host_port.as_str(), |(host, _)| host)
    }

    /// Whether others may see a password that is sent there: neither TLS nor this machine.
    pub(crate) fn shows_a_password(&self) -> bool {
        let bare = self.host().trim_start_matches('[').trim_end_matches(']');
        let is_loopback = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.has_tls && !is_loopback
    }

    pub(super) fn host_port(&self) -> &str {
        &self.host_port
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// `user:password`, where the address names them: it then counts for this address.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|User(text)| text.as_str())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| Err(format!("'{text}' is not an address of a Schema Registry: {why}"));
        let (has_tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => {
                return wrong(&format!("it begins with {scheme}://, not https:// or http://"));
            }
            None if text.is_empty() => return wrong("it is empty, perhaps by a comma too many"),
            None => return wrong("it does not begin with https:// or http://"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        // Taken, since an error would show it.
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(User(percent_decoded(user))), authority),
            None => (None, authority),
        };
        if path.contains(['?', '#']) || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return wrong("its path has a character that no path has");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let usual = if has_tls { 443 } else { 80 };
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{usual}") };
        Ok(Self {
            has_tls,
            host_port: host_port(&authority)?,
            path: path.trim_end_matches('/').to_owned(),
            user,
        })
    }
}

/// A password in an address has its special characters as `%XX`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = code.filter(|_| *byte == b'%').and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(decoded.unwrap_or(*byte));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.has_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host_port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_perhaps_a_path() {
        for (text, shown) in [
            ("http://localhost:8081", "http://localhost:8081"),
            (" http://r.example/apis/ccompat/v7/ ", "http://r.example:80/apis/ccompat/v7"),
            ("HTTP://[::1]:8081", "http://[::1]:8081"),
            ("http://[::1]", "http://[::1]:80"),
            ("HTTPS://r.example/x", "https://r.example:443/x"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("", "comma too many"),
            ("localhost:8081", "does not begin with https:// or http://"),
            ("kafka://r:1", "kafka://"),
            ("http://r:0", "port"),
            ("http://:1", "host is missing"),
            ("http://r:1/a b", "path"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_user_in_an_address_is_taken_and_never_shown() {
        let address: Address = "http://me:h%40sh%@r:1/x".parse().unwrap();
        assert_eq!((address.user(), address.to_string().as_str()), (Some("me:h@sh%"), "http://r:1/x"));
        assert!(!format!("{address:?}").contains("sh%"));
    }
}
