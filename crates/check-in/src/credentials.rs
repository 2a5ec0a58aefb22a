//! Credentials of a check-in: the fleet's API key and each sandbox's gateway token.
//!
//! No check returns early: it compares every accepted value completely, whatever the result. So its time does not
//! reveal where a wrong credential differs, which of several accepted values it resembles, or how long these are.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::refusal::{Credential, Refusal};

type HmacSha256 = Hmac<Sha256>;

/// A secret without a value: empty, or only commas and white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptySecret;

impl fmt::Display for EmptySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secret is empty")
    }
}

impl std::error::Error for EmptySecret {}

/// The values of a secret, separated by commas. The first is the current one; empty values are dropped.
///
/// White space around a value is ignored: `echo secret | wrangler secret put` adds a newline.
fn values(secret: &str) -> impl Iterator<Item = &str> {
    secret.split(',').map(str::trim).filter(|value| !value.is_empty())
}

fn keyed(key: &[u8]) -> Result<HmacSha256, EmptySecret> {
    // HMAC accepts keys of any length, so this never fails. An error is still better than a panic.
    HmacSha256::new_from_slice(key).map_err(|_| EmptySecret)
}

fn digest(keyed: &HmacSha256, message: &[u8]) -> [u8; 32] {
    let mut mac = keyed.clone();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The two credentials of a check-in, before verification.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The API key, without its scheme.
    pub api_key: &'a str,
    pub gateway_token: &'a str,
}

impl<'a> Presented<'a> {
    /// Takes both credentials from their headers; the error names the missing one.
    pub fn from_headers(
        authorization: Option<&'a str>,
        gateway_token: Option<&'a str>,
    ) -> Result<Self, Refusal> {
        let authorization = authorization
            .filter(|value| !value.is_empty())
            .ok_or(Refusal::MissingCredential(Credential::Authorization))?;
        let api_key =
            bearer(authorization).ok_or(Refusal::MissingCredential(Credential::Bearer))?;
        let gateway_token = gateway_token
            .filter(|value| !value.is_empty())
            .ok_or(Refusal::MissingCredential(Credential::GatewayToken))?;
        Ok(Self { api_key, gateway_token })
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented([redacted])")
    }
}

/// The token of an `authorization` value whose scheme is Bearer, in any case (RFC 9110, 11.1).
#[must_use]
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The accepted API keys.
///
/// Comparisons use digests under a random key, so their time does not reveal bytes or lengths of the keys.
#[derive(Clone)]
pub struct AcceptedKeys {
    blinding: HmacSha256,
    accepted: Vec<[u8; 32]>,
}

impl AcceptedKeys {
    /// Takes the secret's comma-separated values, and a random key that blinds the comparisons.
    pub fn new(secret: &str, blinding_key: &[u8; 32]) -> Result<Self, EmptySecret> {
        let blinding = keyed(blinding_key)?;
        let mut accepted = Vec::new();
        for value in values(secret) {
            accepted.push(digest(&blinding, value.as_bytes()));
        }
        if accepted.is_empty() { Err(EmptySecret) } else { Ok(Self { blinding, accepted }) }
    }

    /// Whether `presented` is one of the accepted keys, in constant time.
    #[must_use]
    pub fn accept(&self, presented: &str) -> bool {
        let presented = digest(&self.blinding, presented.as_bytes());
        self.accepted
            .iter()
            .fold(Choice::from(0), |found, accepted| found | accepted.ct_eq(&presented))
            .into()
    }
}

impl fmt::Debug for AcceptedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcceptedKeys([redacted])")
    }
}

/// A sandbox's gateway token: lower-case hex of HMAC-SHA256 over its id.
#[derive(Clone, Copy)]
pub struct GatewayToken([u8; Self::LEN]);

impl GatewayToken {
    /// Length of a token, in characters.
    pub const LEN: usize = 64;

    fn derive(keyed: &HmacSha256, sandbox_id: &str) -> Self {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let mut hex = [0; Self::LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest(keyed, sandbox_id.as_bytes())) {
            for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 0x0f]) {
                *digit = HEX.get(usize::from(nibble)).copied().unwrap_or_default();
            }
        }
        Self(hex)
    }

    /// The token itself, for its machine.
    #[must_use]
    pub fn expose(&self) -> &str {
        // Hex digits are ASCII, hence UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for GatewayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayToken([redacted])")
    }
}

/// The secrets that gateway tokens are derived from, with their key schedules computed.
#[derive(Clone)]
pub struct GatewaySecrets {
    current: HmacSha256,
    previous: Vec<HmacSha256>,
}

impl GatewaySecrets {
    /// Takes the secret's comma-separated values.
    pub fn new(secret: &str) -> Result<Self, EmptySecret> {
        let mut values = values(secret);
        let current = keyed(values.next().ok_or(EmptySecret)?.as_bytes())?;
        let mut previous = Vec::new();
        for value in values {
            previous.push(keyed(value.as_bytes())?);
        }
        Ok(Self { current, previous })
    }

    /// The token of `sandbox_id` under the current secret.
    #[must_use]
    pub fn token(&self, sandbox_id: &str) -> GatewayToken {
        GatewayToken::derive(&self.current, sandbox_id)
    }

    /// Whether `presented` is the token of `sandbox_id` under any accepted secret, in constant time.
    #[must_use]
    pub fn accept(&self, sandbox_id: &str, presented: &str) -> bool {
        // A text of another length is not a token, but is still compared, as zeros, which are not digits.
        let presented = presented.as_bytes().try_into().unwrap_or([0; GatewayToken::LEN]);
        std::iter::once(&self.current)
            .chain(&self.previous)
            .map(|keyed| GatewayToken::derive(keyed, sandbox_id).0.ct_eq(&presented))
            .fold(Choice::from(0), |found, same| found | same)
            .into()
    }
}

impl fmt::Debug for GatewaySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewaySecrets([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLINDING: [u8; 32] = [7; 32];

    fn keys(secret: &str) -> AcceptedKeys {
        AcceptedKeys::new(secret, &BLINDING).unwrap()
    }

    #[test]
    fn derives_the_token_that_openssl_derives() {
        // printf %s sandbox-1 | openssl dgst -sha256 -hmac gateway-secret
        let token = GatewaySecrets::new("gateway-secret").unwrap().token("sandbox-1");
        assert_eq!(token.expose(), include_str!("../tests/sandbox-1.token").trim());
    }

    #[test]
    fn accepts_every_value_of_a_rotation_list_and_nothing_else() {
        let keys = keys(" new ,old,, ");
        assert!(keys.accept("new") && keys.accept("old"));
        for wrong in ["", " ", ",", "new,old", "ne", "new ", "neww", "NEW"] {
            assert!(!keys.accept(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn accepts_tokens_of_every_listed_secret_and_derives_with_the_first() {
        let secrets = GatewaySecrets::new("new,old").unwrap();
        let old = GatewaySecrets::new("old").unwrap().token("s");
        assert!(secrets.accept("s", old.expose()));
        assert!(secrets.accept("s", secrets.token("s").expose()));
        assert_ne!(secrets.token("s").expose(), old.expose());
    }

    #[test]
    fn rejects_a_token_for_another_sandbox() {
        let secrets = GatewaySecrets::new("secret").unwrap();
        assert!(!secrets.accept("b", secrets.token("a").expose()));
    }

    #[test]
    fn rejects_upper_case_and_every_other_length() {
        let secrets = GatewaySecrets::new("secret").unwrap();
        let token = secrets.token("a").expose().to_owned();
        assert!(!secrets.accept("a", &token.to_uppercase()));
        assert!(!secrets.accept("a", &format!("{token}0")));
        assert!(!secrets.accept("a", &token[..63]));
        assert!(!secrets.accept("a", ""));
    }

    #[test]
    fn a_list_without_a_value_is_an_error() {
        for empty in ["", " ", ",", " , ,\n"] {
            assert_eq!(AcceptedKeys::new(empty, &BLINDING).unwrap_err(), EmptySecret);
            assert_eq!(GatewaySecrets::new(empty).unwrap_err(), EmptySecret);
        }
    }

    #[test]
    fn accepts_the_bearer_scheme_in_any_case_and_no_other() {
        for good in ["Bearer k", "bearer k", "BEARER k", "Bearer  k "] {
            assert_eq!(bearer(good), Some("k"), "{good:?}");
        }
        for bad in ["", "k", "Bearer", "Bearer ", "Basic k", "Bearerk", "Bearer: k", " Bearer k"] {
            assert_eq!(bearer(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_the_missing_credential() {
        let missing = |authorization, token| match Presented::from_headers(authorization, token) {
            Err(Refusal::MissingCredential(which)) => which,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(None, Some("t")), Credential::Authorization);
        assert_eq!(missing(Some(""), Some("t")), Credential::Authorization);
        assert_eq!(missing(Some("Basic k"), Some("t")), Credential::Bearer);
        assert_eq!(missing(Some("Bearer k"), None), Credential::GatewayToken);
        assert_eq!(missing(Some("Bearer k"), Some("")), Credential::GatewayToken);
    }

    #[test]
    fn debug_shows_no_secret() {
        let presented = Presented { api_key: "hunter2", gateway_token: "hunter2" };
        let secrets = GatewaySecrets::new("hunter2").unwrap();
        let token = secrets.token("a");
        let shown = format!("{presented:?} {:?} {secrets:?} {token:?}", keys("hunter2"));
        assert!(!shown.contains("hunter2") && !shown.contains(token.expose()), "{shown}");
    }

    proptest! {
        #[test]
        fn accepts_only_the_key_itself(key in "[!-+\\--~]{1,64}", other in "\\PC{0,80}") {
            let keys = keys(&key);
            prop_assert!(keys.accept(&key));
            prop_assert_eq!(keys.accept(&other), key == other);
        }

        #[test]
        fn rejects_a_token_with_a_changed_digit(id in "\\PC{1,40}", at in 0..64usize) {
            let secrets = GatewaySecrets::new("secret").unwrap();
            let mut token = secrets.token(&id).expose().to_owned().into_bytes();
            prop_assert!(secrets.accept(&id, std::str::from_utf8(&token).unwrap()));
            token[at] = if token[at] == b'0' { b'1' } else { b'0' };
            prop_assert!(!secrets.accept(&id, std::str::from_utf8(&token).unwrap()));
        }

        #[test]
        fn headers_never_panic(authorization in "\\PC{0,80}", id in "\\PC{0,100}", token in "\\PC{0,80}") {
            let _ = Presented::from_headers(Some(&authorization), Some(&token));
            prop_assert!(!GatewaySecrets::new("secret").unwrap().accept(&id, &token));
        }
    }
}
