//! The operators' own tokens, HS256 and nothing else, and what tokens of every kind are judged by.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use jwt_compact::alg::{Hs256, Hs256Key};
use jwt_compact::{AlgorithmExt, Claims, UntrustedToken, ValidationError};
use kiloclaw_checkin::limits::MAX_SANDBOX_ID_BYTES;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use worker::Date;

use crate::bindings::{Access, Jwt};
use crate::gate::{Operator, Via};

/// How far the clocks of issuer and Worker may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// The claims that are looked at, besides those of time. One type for both kinds of token: reading
/// another would cost 4 kB of the bundle.
#[derive(Deserialize)]
struct Named {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "Text::present")]
    sandbox_id: Option<Text>,
    /// A person's, with Access.
    email: Option<Text>,
    /// A service token's, with Access.
    common_name: Option<Text>,
    /// What Access has from the identity provider.
    custom: Option<Custom>,
}

/// One audience or several (RFC 7519, 4.1.3).
#[derive(Deserialize)]
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

/// A claim that should be a text, or what it is instead.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(IgnoredAny),
}

impl Text {
    /// Tells a claim that is null from one that is absent.
    fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        Self::deserialize(from).map(Some)
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// As the claim `sandbox_id`: the one sandbox that the token is limited to. Only without that claim
    /// is a token unlimited.
    fn sandbox(self) -> Result<String, BadToken> {
        let is_id = |id: &String| (1..=MAX_SANDBOX_ID_BYTES).contains(&id.len());
        self.text().filter(is_id).ok_or(BadToken::Scope)
    }
}

/// The claim `custom`, or what it is instead.
#[derive(Deserialize)]
#[serde(untagged)]
enum Custom {
    Claims {
        #[serde(default, deserialize_with = "Text::present")]
        sandbox_id: Option<Text>,
    },
    Other(IgnoredAny),
}

impl Custom {
    fn sandbox_id(self) -> Result<Option<Text>, BadToken> {
        match self {
            Self::Claims { sandbox_id } => Ok(sandbox_id),
            Self::Other(_) => Err(BadToken::Claims),
        }
    }
}

/// Why a token is not let through; for the log, which it tells nothing of the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// It is no JWT.
    Malformed,
    /// It is signed by another algorithm than the one that is accepted, or says so.
    Algorithm,
    /// The signature is not that of a key that is accepted.
    Signature,
    /// It names no key that the team of its Access has.
    Key,
    /// A claim is missing or is not of its type.
    Claims,
    /// `exp` is past.
    Expired,
    /// `nbf` or, with Access, `iat` lies ahead.
    NotYetValid,
    /// `iss` is not the one that is accepted.
    Issuer,
    /// `aud` does not name the one that is accepted.
    Audience,
    /// `sandbox_id` is there, but no sandbox can have it.
    Scope,
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a JWT",
            Self::Algorithm => "the algorithm is another one",
            Self::Signature => "not signed with an accepted key",
            Self::Key => "kid names none of the team's keys",
            Self::Claims => "a claim is missing or of a wrong type; exp is required",
            Self::Expired => "expired",
            Self::NotYetValid => "not valid yet",
            Self::Issuer => "iss is another one",
            Self::Audience => "aud names only others",
            Self::Scope => "sandbox_id is not a string of 1 to 96 bytes",
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
            _ => Self::Claims,
        }
    }
}

/// The operator whom a token names that is signed with a value of `JWT_SECRET` by HS256, has an `exp`
/// that lies ahead and, where `JWT_ISSUER` and `JWT_AUDIENCE` are set, names that issuer and audience.
pub(crate) fn check(jwt: &Jwt, token: &str, now: DateTime<Utc>) -> Result<Operator, BadToken> {
    let token = UntrustedToken::new(token).map_err(|_| BadToken::Malformed)?;
    let claims = verify(jwt, &token)?;

    check_time(&claims, now)?;
    let Named { sub, iss, aud, sandbox_id, .. } = claims.custom;
    if jwt.issuer.is_some() && iss != jwt.issuer {
        return Err(BadToken::Issuer);
    }
    if let Some(audience) = &jwt.audience
        && !aud.is_some_and(|aud| aud.includes(audience))
    {
        return Err(BadToken::Audience);
    }
    let sandbox = sandbox_id.map(Text::sandbox).transpose()?;
    Ok(Operator { sub, sandbox, via: Via::Jwt })
}

/// The claims of a token that one of the secrets signed.
fn verify(jwt: &Jwt, token: &UntrustedToken<'_>) -> Result<Claims<Named>, BadToken> {
    for secret in &jwt.secrets {
        let key = Hs256Key::new(secret.as_bytes());
        match Hs256.validator::<Named>(&key).validate(token).map_err(BadToken::from) {
            Err(BadToken::Signature) => {}
            Err(bad) => return Err(bad),
            Ok(token) => return Ok(token.into_parts().1),
        }
    }
    Err(BadToken::Signature)
}

/// The operator whom a token of Cloudflare Access names, whose signature holds: it is of the team and for
/// the application, its `exp` lies ahead, and `nbf` and `iat` do not.
pub(crate) fn judge(
    team: &Access,
    token: &UntrustedToken<'_>,
    now: DateTime<Utc>,
) -> Result<Operator, BadToken> {
    let claims = token.deserialize_claims_unchecked::<Named>()?;
    check_time(&claims, now)?;
    check_past(claims.issued_at, now)?;
    let Named { iss, aud, email, common_name, sub, sandbox_id, custom } = claims.custom;
    if iss.as_ref() != Some(&team.origin) {
        return Err(BadToken::Issuer);
    }
    if !aud.is_some_and(|aud| aud.includes(&team.audience)) {
        return Err(BadToken::Audience);
    }
    let scope = |claim: Option<Text>| claim.map(Text::sandbox).transpose();
    let custom = custom.map(Custom::sandbox_id).transpose()?.flatten();
    let sandbox = match (scope(sandbox_id)?, scope(custom)?) {
        (Some(one), Some(other)) if one != other => return Err(BadToken::Scope),
        (one, other) => one.or(other),
    };
    // A service token's `sub` is empty.
    let named = [email, common_name].into_iter().flatten().filter_map(Text::text);
    let sub = named.chain(sub).find(|name| !name.is_empty());
    Ok(Operator { sub, sandbox, via: Via::Access })
}

/// Whether it is time for a token: `exp` lies ahead and `nbf`, if there is one, does not.
fn check_time<T>(claims: &Claims<T>, now: DateTime<Utc>) -> Result<(), BadToken> {
    let expiration = claims.expiration.ok_or(BadToken::Claims)?;
    // Not jwt-compact's own checks: where a time is at the end of what can be told, they panic.
    if now.signed_duration_since(expiration) > LEEWAY {
        return Err(BadToken::Expired);
    }
    check_past(claims.not_before, now)
}

/// Whether a time, if there is one, does not lie ahead.
fn check_past(time: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), BadToken> {
    match time {
        Some(time) if time.signed_duration_since(now) > LEEWAY => Err(BadToken::NotYetValid),
        _ => Ok(()),
    }
}

/// The time of day, as tokens are judged by.
pub(crate) fn now() -> DateTime<Utc> {
    let milliseconds = i64::try_from(Date::now().as_millis()).unwrap_or(i64::MAX);
    // Out of range would be the year 262143: every token has expired by then.
    DateTime::from_timestamp_millis(milliseconds).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
