//! One address of a registry.

use std::fmt;
use std::str::FromStr;

use crate::config::host_port;

/// An address of a registry: `http://host:port`, perhaps with a path below which its API is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
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
    pub(super) fn host_port(&self) -> &str {
        &self.host_port
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// `user:password`, where the address names them: it then counts for this address.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|User(text)| text.as_str())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| Err(format!("'{text}' is not an address of a Schema Registry: {why}"));
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return wrong("https is not supported; put a proxy that ends TLS beside this process");
            }
            Some((scheme, _)) => return wrong(&format!("it begins with {scheme}://, not http://")),
            None if text.is_empty() => return wrong("it is empty, perhaps by a comma too many"),
            None => return wrong("it does not begin with http://"),
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
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { host_port: host_port(&authority)?, path: path.trim_end_matches('/').to_owned(), user })
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
        write!(f, "http://{}{}", self.host_port, self.path)
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
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("", "comma too many"),
            ("localhost:8081", "does not begin with http://"),
            ("https://r:1", "https is not supported"),
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
