//! A token that is not verified yet, and the checks of its times.

use chrono::{DateTime, TimeDelta, Utc};
use jwt_compact::{Claims, UntrustedToken};
use kiloclaw_json::Value;

use crate::error::TokenError;

/// How far the clocks of the issuer and the Worker may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// A parsed token without any verification.
pub struct Token<'a>(pub(crate) UntrustedToken<'a, Value>);

impl<'a> Token<'a> {
    /// Parses a token.
    ///
    /// A header with `crit` is an error: it names extensions that a reader must support, and none is supported
    /// (RFC 7515, 4.1.11).
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let token = UntrustedToken::<Value>::try_from(token).map_err(|_| TokenError::Malformed)?;
        if token.header().other_fields.get("crit").is_some() {
            return Err(TokenError::Critical);
        }
        Ok(Self(token))
    }

    /// `alg` of the header.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.algorithm()
    }

    /// `kid` of the header.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.0.header().key_id.as_deref()
    }

    /// The signature's bytes.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        self.0.signature_bytes()
    }
}

/// Checks that `exp` is in the future and `nbf`, if present, is not.
pub(crate) fn check_time<T>(claims: &Claims<T>, now: DateTime<Utc>) -> Result<(), TokenError> {
    let expiration = claims.expiration.ok_or(TokenError::Claims)?;
    // jwt-compact's own checks panic on a time at the end of the calendar.
    if now.signed_duration_since(expiration) > LEEWAY {
        return Err(TokenError::Expired);
    }
    check_past(claims.not_before, now)
}

/// Checks that a time, if present, is not in the future.
pub(crate) fn check_past(
    time: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), TokenError> {
    match time {
        Some(time) if time.signed_duration_since(now) > LEEWAY => Err(TokenError::NotYetValid),
        _ => Ok(()),
    }
}

/// A time for jwt-compact, from milliseconds since 1970. A time beyond the end of the calendar becomes that end, when
/// every token has expired.
pub(crate) fn time(milliseconds: u64) -> DateTime<Utc> {
    i64::try_from(milliseconds)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
