//! Bearer tokens, by the hashes of the token file.
//!
//! Invariant: how long a look takes tells nothing of the tokens. What is compared are hashes, all of them each time, in
//! constant time.

use std::fmt;
use std::sync::Arc;

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use task_events::access::{TokenHash, hash_of, parse_file};

use super::caller::Caller;

/// The tokens of a file.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<(TokenHash, Caller)>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => f.write_str("no token: every request is refused"),
            1 => f.write_str("1 token"),
            many => write!(f, "{many} tokens"),
        }
    }
}

impl Tokens {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = parse_file(text)?.into_iter();
        let tokens = lines.map(|line| {
            let caller = Caller { actor: Arc::from(line.name), scopes: line.scopes };
            (line.hash, caller)
        });
        Ok(Self(tokens.collect()))
    }

    pub(super) fn caller(&self, token: &str) -> Option<Caller> {
        let hash = hash_of(token);
        let mut found = u32::MAX;
        for (number, (known, _)) in (0_u32..).zip(&self.0) {
            let is_same: Choice = known.as_slice().ct_eq(&hash);
            found.conditional_assign(&number, is_same);
        }
        let found = usize::try_from(found).ok()?;
        self.0.get(found).map(|(_, caller)| caller.clone())
    }
}

#[cfg(test)]
mod tests {
    use task_events::access::{Scope, TokenLine};

    use super::*;

    #[test]
    fn each_token_is_its_callers_and_no_other_text_is_one() {
        let line = |name: &str, scopes: &str, token: &str| {
            let line =
                TokenLine { name: name.to_owned(), scopes: scopes.parse().unwrap(), hash: hash_of(token) };
            format!("{line}\n")
        };
        let file =
            line("alice", "read,write", "a1") + &line("bob", "read", "b") + &line("alice", "write", "a2");
        let tokens = Tokens::parse(&file).unwrap();
        let of = |token: &str| tokens.caller(token).map(|caller| (caller.actor.to_string(), caller.scopes));
        assert_eq!(of("a1"), Some(("alice".to_owned(), "read,write".parse().unwrap())));
        assert_eq!(of("a2"), Some(("alice".to_owned(), "write".parse().unwrap())));
        assert!(of("b").unwrap().1.contain(Scope::Read) && !of("b").unwrap().1.contain(Scope::Write));
        let hash_itself = task_events::escape::hex(&hash_of("a1"));
        for other in ["", "a", "A1", "a1 ", hash_itself.as_str()] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(Tokens::parse("# nobody\n").unwrap().caller("a1"), None);
    }
}
