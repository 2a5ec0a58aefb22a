//! Operators' credentials: which tokens are valid, and what their bearer may see.
//!
//! - [`jwt`] verifies tokens that are signed with `JWT_SECRET` (HS256).
//! - [`access`] verifies the claims of Cloudflare Access' tokens; the runtime verifies their signature (RS256)
//!   with a key of the [`KeySet`].
//!
//! Pure: the time is an argument, and whoever calls fetches keys.

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
    /// How the principal authenticated.
    pub method: AuthMethod,
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
