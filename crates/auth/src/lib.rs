//! Operators' credentials: which tokens are valid, and what their bearer may see.
//!
//! - [`jwt`] verifies tokens that are signed with `JWT_SECRET` (HS256).
//! - [`access`] verifies the claims of Cloudflare Access' tokens; the runtime verifies their signature (RS256)
//!   with a key from the [`KeySet`].
//!
//! Pure: the time is an argument, and the caller fetches keys.

#![forbid(unsafe_code)]

pub mod access;
mod claims;
mod error;
pub mod jwt;
mod key_set;
mod token;

use serde::Serialize;

pub use error::TokenError;
pub use key_set::{Key, KeySet, Lookup, MissingKey};
pub use token::Token;

/// Who sends a request to the operators' API, and what they may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The subject's name, if the credential has one.
    pub sub: Option<String>,
    /// The only sandbox that the principal may see; `None` means the whole fleet.
    pub sandbox: Option<String>,
    /// What the principal may change: names, separated by spaces (RFC 8693, 4.2).
    pub scope: String,
    /// How the principal authenticated.
    pub method: AuthMethod,
}

/// The scope for planning and ending absences.
pub const ABSENCES_WRITE: &str = "absences:write";

impl Principal {
    /// Whether the principal has a scope. A backend's key has all.
    #[must_use]
    pub fn has_scope(&self, name: &str) -> bool {
        self.method == AuthMethod::Internal || self.scope.split(' ').any(|scope| scope == name)
    }
}

/// The ways to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// A bearer token that is signed with `JWT_SECRET`.
    Jwt,
    /// A token of Cloudflare Access.
    Access,
    /// A value of `INTERNAL_API_SECRET`.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_one_of_the_names() {
        let has = |scope: &str, method| {
            let scope = scope.to_owned();
            Principal { sub: None, sandbox: None, scope, method }.has_scope(ABSENCES_WRITE)
        };
        for scope in ["absences:write", "a absences:write", "absences:write b"] {
            assert!(has(scope, AuthMethod::Jwt), "{scope}");
        }
        for scope in ["", " ", "absences", "absences:writes", "ABSENCES:WRITE", "a,absences:write"]
        {
            assert!(!has(scope, AuthMethod::Access), "{scope}");
        }
        assert!(has("", AuthMethod::Internal));
    }
}
