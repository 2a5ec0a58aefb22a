//! Tokens that are signed with a shared secret, by HS256 only. Operators have them, and a machine may have one as its
//! API key.

use jwt_compact::AlgorithmExt;
use jwt_compact::Claims;
use jwt_compact::alg::{Hs256, Hs256Key};
use kiloclaw_json::Value;

use crate::claims::{KNOWN, check, check_audience, check_look_alikes, sandbox, text};
use crate::error::TokenError;
use crate::token::{Token, check_time, time};
use crate::{AuthMethod, Principal};

/// What a token must match.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The accepted secrets, at least one.
    pub secrets: Vec<String>,
    /// The only accepted `iss`, if that is limited.
    pub issuer: Option<String>,
    /// The value that `aud` must include, if any: refuses tokens for other systems that share the secret.
    pub audience: Option<String>,
}

/// Maximum length of a token as a machine's API key, in bytes. Strangers send them, and each secret parses the token
/// again.
const MAX_KEY_BYTES: usize = 4_096;

/// Verifies a machine's API key: steps 1 to 4 of [`verify`]. A token of more than 4 KiB is malformed.
pub fn verify_key(settings: &Settings, token: &str, now: u64) -> Result<(), TokenError> {
    if token.len() > MAX_KEY_BYTES {
        return Err(TokenError::Malformed);
    }
    claims(settings, token, now).map(drop)
}

/// Verifies an operator's token, and returns its principal:
///
/// 1. the token is malformed or has `crit` → error
/// 2. it is not signed with one of the secrets by HS256 → error
/// 3. a claim that counts has another type than in RFC 7519 or occurs twice, `exp` is missing or past, or `nbf` is in the
///    future → error
/// 4. `iss` or `aud`, where one is set, does not match → error
/// 5. `sandbox_id` is not a sandbox's id, or another claim looks like it → error
///
/// `now` is in milliseconds since 1970.
pub fn verify(settings: &Settings, token: &str, now: u64) -> Result<Principal, TokenError> {
    // 1. to 4.
    let claims = claims(settings, token, now)?;
    // 5.
    check_look_alikes(&claims, "")?;
    Ok(Principal {
        sub: text(&claims, "sub").map(str::to_owned),
        sandbox: sandbox(&claims)?.map(str::to_owned),
        scope: text(&claims, "scope").unwrap_or_default().to_owned(),
        method: AuthMethod::Jwt,
    })
}

/// The claims of a valid token: steps 1 to 4 of [`verify`].
fn claims(settings: &Settings, token: &str, now: u64) -> Result<Value, TokenError> {
    // 1.
    let token = Token::parse(token)?;
    // 2.
    let claims = verify_signature(settings, &token)?;
    // 3.
    check(&claims.custom, KNOWN)?;
    check_time(&claims, time(now))?;
    // 4.
    let claims = claims.custom;
    if settings.issuer.is_some() && text(&claims, "iss") != settings.issuer.as_deref() {
        return Err(TokenError::Issuer);
    }
    if let Some(audience) = &settings.audience {
        check_audience(&claims, audience)?;
    }
    Ok(claims)
}

/// The claims of a token that one of the secrets signed.
fn verify_signature(settings: &Settings, token: &Token<'_>) -> Result<Claims<Value>, TokenError> {
    for secret in &settings.secrets {
        let key = Hs256Key::new(secret.as_bytes());
        match Hs256.validator::<Value>(&key).validate(&token.0).map_err(TokenError::from) {
            Err(TokenError::Signature) => {}
            Err(error) => return Err(error),
            Ok(token) => return Ok(token.into_parts().1),
        }
    }
    Err(TokenError::Signature)
}
