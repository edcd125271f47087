//! Who was recognised, or why a request is refused.

use std::sync::Arc;

use task_events::access::{Scope, Scopes};

/// The name of a caller, as events, audit lines and log lines have it.
pub type Actor = Arc<str>;

/// A caller that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub actor: Actor,
    /// What it may do.
    pub scopes: Scopes,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It has no token.
    NoToken,
    /// It has a token in a form that is none, or several.
    Malformed,
    /// Its token is not known, or not any longer.
    Unknown,
    /// Its token names a key that its issuer may have by now: nothing is known of it.
    UnknownKey,
    /// The issuer's keys could not be fetched yet: nothing is known of its token.
    NoKeys,
    /// The caller may not do this.
    Scope(Scope),
}
