//! Tokens of the API's callers: how one is made, and the line of the token file that admits it.
//!
//! ```text
//! # NAME SCOPES SHA-256-OF-THE-TOKEN
//! alice read,write 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```
//!
//! # Invariants
//!
//! 1. *A file holds no token*, only hashes. A token has 256 random bits, so that a hash without salt and without
//!    stretching gives nothing away.
//! 2. *A name is one caller.* It may have several tokens, so that one can be replaced while both are taken. It has no
//!    colon: names that other issuers give have one, so that nobody can be taken for somebody of the file.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::escape::hex;

/// Begins each token, so that a scanner for secrets finds one that was published.
pub const TOKEN_PREFIX: &str = "te_";
/// Tokens of one file: all of them are compared for each request.
pub const MAX_TOKENS: usize = 1_000;
/// Largest file of callers, in bytes.
pub const MAX_FILE: usize = 1024 * 1024;
/// Characters of a caller's name.
const MAX_NAME: usize = 64;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Look at tasks, events and groups.
    Read,
    /// Change tasks, and redrive dead letters.
    Write,
}

/// All that a caller may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes {
    read: bool,
    write: bool,
}

impl Scope {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Scopes {
    /// Whether the scope is one of them.
    pub fn contain(self, scope: Scope) -> bool {
        match scope {
            Scope::Read => self.read,
            Scope::Write => self.write,
        }
    }

    /// Those of a list that are known; others are somebody else's.
    pub fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes = Self::default();
        for name in names {
            scopes.read |= name == Scope::Read.as_str();
            scopes.write |= name == Scope::Write.as_str();
        }
        scopes
    }
}

impl FromStr for Scopes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        match names.iter().find(|name| ![Scope::Read.as_str(), Scope::Write.as_str()].contains(name)) {
            None => Ok(Self::known(names)),
            Some(other) => Err(format!("'{other}' is not a scope: read, write or read,write")),
        }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write) {
            (true, true) => "read,write",
            (true, false) => "read",
            (false, true) => "write",
            (false, false) => "",
        })
    }
}

/// A line of the token file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenLine {
    /// Who has the token.
    pub name: String,
    /// What it is good for.
    pub scopes: Scopes,
    /// Of the token.
    pub hash: TokenHash,
}

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// The hash by which a file knows a token.
pub fn hash_of(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// A caller's name, for `clap` too.
pub fn caller_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    // A token in the place of a name would be in every event.
    if text.starts_with(TOKEN_PREFIX) {
        return Err("a name that begins with te_ is taken for a token".to_owned());
    }
    if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(legal) {
        return Err(format!("'{text}' is not a caller's name: 1 to {MAX_NAME} of a-z A-Z 0-9 . _ - @"));
    }
    Ok(text.to_owned())
}

impl FromStr for TokenLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, scopes, hash] = words.as_slice() else {
            return Err("it has to be NAME SCOPES SHA-256, as `taskctl token create` prints it".to_owned());
        };
        // What may be a token is not repeated.
        let wrong = || "the third word is not the SHA-256 of a token in hexadecimal".to_owned();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; 32];
        if hash.len() != 2 * bytes.len() {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(hash.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return Err(wrong()) };
            *byte = (digit(*high).ok_or_else(wrong)? << 4) | digit(*low).ok_or_else(wrong)?;
        }
        let name = caller_name(name).map_err(|_| {
            format!(
                "the first word is not a caller's name: 1 to {MAX_NAME} of a-z A-Z 0-9 . _ - @, and no token"
            )
        })?;
        let scopes = scopes.parse().map_err(|_| "the second word is not read, write or read,write")?;
        Ok(Self { name, scopes, hash: bytes })
    }
}

impl fmt::Display for TokenLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.scopes, hex(&self.hash))
    }
}

/// The lines of a token file. Empty ones, and those that begin with `#`, say nothing. A file that has a wrong line is
/// wrong as a whole: nobody loses access by a typo, and nobody gets any.
pub fn parse_file(text: &str) -> Result<Vec<TokenLine>, String> {
    let mut tokens: Vec<TokenLine> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let token: TokenLine = line.parse().map_err(|why| format!("line {number}: {why}"))?;
        if let Some(other) = tokens.iter().find(|other| other.hash == token.hash) {
            return Err(format!("line {number}: it has the token of {} again", other.name));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(format!("it has more than {MAX_TOKENS} tokens"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was_printed() {
        for scopes in ["read", "write", "read,write"] {
            let line = TokenLine {
                name: "alice@example.org".to_owned(),
                scopes: scopes.parse().unwrap(),
                hash: hash_of("te_x"),
            };
            let text = line.to_string();
            assert_eq!(parse_file(&format!("# tokens\n\n  {text}\r\n")).unwrap(), [line], "{text}");
            assert!(!text.contains("te_x"));
        }
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_what_may_be_a_token_is_not_repeated() {
        let hash = hex(&hash_of("te_x"));
        for (line, why) in [
            ("alice read".to_owned(), "NAME SCOPES SHA-256"),
            (format!("alice admin {hash}"), "the second word is not"),
            (format!("alice te_secret {hash}"), "the second word is not"),
            (format!("te_secret read {hash}"), "not a caller's name"),
            (format!("jwt:alice read {hash}"), "not a caller's name"),
            (format!("{} read {hash}", "x".repeat(65)), "not a caller's name"),
            ("alice read te_secret".to_owned(), "not the SHA-256"),
            (format!("alice read {}é", &hash[..62]), "not the SHA-256"),
            (format!("bob read {hash}\nalice read {hash}"), "the token of bob again"),
        ] {
            let refused = parse_file(&format!("\n{line}")).unwrap_err();
            assert!(refused.contains(why) && refused.starts_with("line "), "{refused}");
            assert!(!refused.contains("te_secret"));
        }
        let many: Vec<String> =
            (0..=MAX_TOKENS).map(|n| format!("a read {}", hex(&hash_of(&n.to_string())))).collect();
        assert!(parse_file(&many.join("\n")).unwrap_err().contains("more than"));
    }
}
