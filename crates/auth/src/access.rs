//! Tokens of Cloudflare Access, which the team's keys sign by RS256.

use kiloclaw_json::Value;

use crate::claims::{KNOWN, KNOWN_CUSTOM, check, check_audience, check_look_alikes, sandbox, text};
use crate::error::TokenError;
use crate::token::{Token, check_past, check_time, time};
use crate::{AuthMethod, Principal};

/// The algorithm of Access' signatures.
pub const ALGORITHM: &str = "RS256";

/// What a token must match.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The team's origin: the accepted `iss`, and where its keys are.
    pub origin: String,
    /// The audience tag of the application.
    pub audience: String,
}

/// Verifies the claims of a token whose signature is already verified, and returns its principal:
///
/// 1. a claim that counts has another type than in RFC 7519 or occurs twice, `exp` is missing or past, or `nbf` or `iat`
///    is in the future → error
/// 2. `iss` is not the team's origin, or `aud` does not include the application's tag → error
/// 3. `sandbox_id`, at the top level or under `custom`, is not a sandbox's id, or another claim looks like it → error
///
/// `now` is in milliseconds since 1970.
pub fn verify_claims(
    settings: &Settings,
    token: &Token<'_>,
    now: u64,
) -> Result<Principal, TokenError> {
    // 1.
    let now = time(now);
    let claims = token.0.deserialize_claims_unchecked::<Value>()?;
    check(&claims.custom, KNOWN)?;
    check_time(&claims, now)?;
    check_past(claims.issued_at, now)?;
    // 2.
    let claims = &claims.custom;
    if text(claims, "iss") != Some(&settings.origin) {
        return Err(TokenError::Issuer);
    }
    check_audience(claims, &settings.audience)?;
    // 3.
    let custom = match claims.get("custom") {
        Some(custom) if custom.is_map() => custom,
        None | Some(Value::Null) => &Value::Null,
        Some(_) => return Err(TokenError::Claims),
    };
    check(custom, KNOWN_CUSTOM)?;
    check_look_alikes(claims, "custom")?;
    check_look_alikes(custom, "")?;
    let sandbox = match (sandbox(claims)?, sandbox(custom)?) {
        (Some(one), Some(other)) if one != other => return Err(TokenError::SandboxId),
        (one, other) => one.or(other),
    };
    let first = |texts: &[Option<&str>]| {
        texts.iter().flatten().find(|text| !text.is_empty()).map(|text| (*text).to_owned())
    };
    // A person, or a service token, whose `sub` is empty.
    let sub = first(&["email", "common_name", "sub"].map(|name| text(claims, name)));
    let scope = first(&[claims, custom].map(|claims| text(claims, "scope"))).unwrap_or_default();
    let sandbox = sandbox.map(str::to_owned);
    Ok(Principal { sub, sandbox, scope, method: AuthMethod::Access })
}
