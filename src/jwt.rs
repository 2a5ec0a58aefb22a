//! The operators' own tokens: HS256 and nothing else.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use jwt_compact::alg::{Hs256, Hs256Key};
use jwt_compact::{AlgorithmExt, Claims, TimeOptions, UntrustedToken, ValidationError};
use serde::Deserialize;
use worker::Date;

use crate::bindings::Gate;
use crate::gate::Operator;

/// How far the clocks of issuer and Worker may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// The claims that are looked at.
#[derive(Debug, Deserialize)]
struct Named {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
}

/// One audience or several (RFC 7519, 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

/// Why a token is not let through; for the log, which it tells nothing of the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// It is no JWT.
    Malformed,
    /// It is signed by another algorithm than HS256, or says so.
    Algorithm,
    /// The signature is not that of `JWT_SECRET`.
    Signature,
    /// A claim is missing or is not of its type.
    Claims,
    /// `exp` is past.
    Expired,
    /// `nbf` lies ahead.
    NotYetValid,
    /// `iss` is not `JWT_ISSUER`.
    Issuer,
    /// `aud` does not name `JWT_AUDIENCE`.
    Audience,
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a JWT",
            Self::Algorithm => "the algorithm is not HS256",
            Self::Signature => "not signed with JWT_SECRET",
            Self::Claims => "a claim is missing or of a wrong type; exp is required",
            Self::Expired => "expired",
            Self::NotYetValid => "not valid yet",
            Self::Issuer => "iss is not JWT_ISSUER",
            Self::Audience => "aud does not name JWT_AUDIENCE",
        })
    }
}

impl From<ValidationError> for BadToken {
    fn from(error: ValidationError) -> Self {
        match error {
            ValidationError::AlgorithmMismatch { .. } => Self::Algorithm,
            ValidationError::InvalidSignatureLen { .. }
            | ValidationError::MalformedSignature(_)
            | ValidationError::InvalidSignature => Self::Signature,
            ValidationError::Expired => Self::Expired,
            ValidationError::NotMature => Self::NotYetValid,
            _ => Self::Claims,
        }
    }
}

/// The operator whom a token names that is signed with `JWT_SECRET` by HS256, has an `exp` that lies
/// ahead and, where `JWT_ISSUER` and `JWT_AUDIENCE` are set, names that issuer and audience.
pub(crate) fn check(gate: &Gate, token: &str, now: DateTime<Utc>) -> Result<Operator, BadToken> {
    let token = UntrustedToken::new(token).map_err(|_| BadToken::Malformed)?;
    let key = Hs256Key::new(gate.secret.as_bytes());
    let token = Hs256.validator::<Named>(&key).validate(&token)?;

    let claims: &Claims<Named> = token.claims();
    let time = TimeOptions::new(LEEWAY, || now);
    claims.validate_expiration(&time)?;
    if claims.not_before.is_some() {
        claims.validate_maturity(&time)?;
    }
    let Named { iss, aud, .. } = &claims.custom;
    if gate.issuer.is_some() && *iss != gate.issuer {
        return Err(BadToken::Issuer);
    }
    if let Some(audience) = &gate.audience
        && !aud.as_ref().is_some_and(|aud| aud.includes(audience))
    {
        return Err(BadToken::Audience);
    }
    Ok(Operator { sub: token.into_parts().1.custom.sub })
}

/// The time of day, as tokens are judged by.
pub(crate) fn now() -> DateTime<Utc> {
    let milliseconds = i64::try_from(Date::now().as_millis()).unwrap_or(i64::MAX);
    // Out of range would be the year 262143: every token has expired by then.
    DateTime::from_timestamp_millis(milliseconds).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
