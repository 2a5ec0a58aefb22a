//! Tokens of Cloudflare Access, which the team's keys sign by RS256.

use crate::claims::{ClaimText, Custom, Known};
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
/// 1. `exp` is missing or past, or `nbf` or `iat` is in the future → error
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
    let claims = token.0.deserialize_claims_unchecked::<Known>()?;
    check_time(&claims, now)?;
    check_past(claims.issued_at, now)?;
    // 2.
    let claims = claims.custom;
    if claims.iss.as_ref() != Some(&settings.origin) {
        return Err(TokenError::Issuer);
    }
    claims.check_audience(&settings.audience)?;
    // 3.
    claims.check_look_alikes()?;
    let Known { email, common_name, sub, sandbox_id, scope, custom, .. } = claims;
    let (custom, custom_scope) = match custom {
        Some(Custom::Claims { sandbox_id, scope, others }) => {
            others.check()?;
            (sandbox_id, scope)
        }
        Some(Custom::Other(_)) => return Err(TokenError::Claims),
        None => (None, None),
    };
    let sandbox = |claim: Option<ClaimText>| claim.map(ClaimText::sandbox).transpose();
    let sandbox = match (sandbox(sandbox_id)?, sandbox(custom)?) {
        (Some(one), Some(other)) if one != other => return Err(TokenError::SandboxId),
        (one, other) => one.or(other),
    };
    // A service token has an empty `sub`.
    let names = [email, common_name].into_iter().flatten().filter_map(ClaimText::text);
    let sub = names.chain(sub).find(|name| !name.is_empty());
    let (scope, custom_scope) = (ClaimText::scope(scope)?, ClaimText::scope(custom_scope)?);
    let scope = if scope.is_empty() { custom_scope } else { scope };
    Ok(Principal { sub, sandbox, scope, method: AuthMethod::Access })
}
