//! The operators' own tokens, HS256 and nothing else, and what tokens of every kind are judged by.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use jwt_compact::alg::{Hs256, Hs256Key};
use jwt_compact::{AlgorithmExt, Claims, UntrustedToken, ValidationError};
use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use worker::Date;

use crate::bindings::{Access, Jwt};
use crate::gate::{Operator, Via};

/// How far the clocks of issuer and Worker may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// What a limit to one sandbox may be called by mistake, without case and punctuation.
const LOOK_ALIKES: [&str; 4] = ["sandbox", "sandboxes", "sandboxid", "sandboxids"];

/// A token whose signature and claims are not yet checked.
pub(crate) type Unverified<'a> = UntrustedToken<'a, Extensions>;

/// What else a header may have.
#[derive(Clone, Deserialize)]
pub(crate) struct Extensions {
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

/// Reads a token. One that demands extensions to be understood is refused: none is (RFC 7515, 4.1.11).
pub(crate) fn read(token: &str) -> Result<Unverified<'_>, BadToken> {
    let token = Unverified::try_from(token).map_err(|_| BadToken::Malformed)?;
    if token.header().other_fields.crit.is_some() {
        return Err(BadToken::Critical);
    }
    Ok(token)
}

/// Reads a field so that one that is null is not the same as one that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The claims that are looked at, besides those of time. One type for both kinds of token: reading
/// another would cost 4 kB of the bundle.
#[derive(Deserialize)]
struct Named {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "present")]
    sandbox_id: Option<Text>,
    /// A person's, with Access.
    email: Option<Text>,
    /// A service token's, with Access.
    common_name: Option<Text>,
    /// What Access has from the identity provider.
    custom: Option<Custom>,
    #[serde(flatten)]
    others: Others,
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
    Other(Others),
}

impl Text {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// Refuses what has a [look-alike](Others::check) within.
    fn check(claim: Option<&Self>) -> Result<(), BadToken> {
        match claim {
            Some(Self::Other(others)) => others.check(),
            _ => Ok(()),
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
        #[serde(default, deserialize_with = "present")]
        sandbox_id: Option<Text>,
        #[serde(flatten)]
        others: Others,
    },
    Other(Others),
}

/// Claims that are not looked at, but for their names, at whatever depth: a limit that is misspelt must not
/// mean the whole fleet.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Others {
    has_look_alike: bool,
}

impl Others {
    /// Refuses a name that a limit to one sandbox may have been given by mistake.
    fn check(self) -> Result<(), BadToken> {
        if self.has_look_alike { Err(BadToken::LookAlike) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Others {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self::default())
    }
}

impl<'de> Visitor<'de> for Others {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a claim")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut claims: A) -> Result<Self, A::Error> {
        while let Some((name, value)) = claims.next_entry::<String, Self>()? {
            self.has_look_alike |= value.has_look_alike || is_look_alike(&name);
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<Self, A::Error> {
        while let Some(value) = values.next_element::<Self>()? {
            self.has_look_alike |= value.has_look_alike;
        }
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// Whether a claim of this name may have been meant as a limit to one sandbox: `sandboxId`, say, or
/// `https://example.com/sandbox`.
fn is_look_alike(name: &str) -> bool {
    let mut name = name.to_ascii_lowercase();
    name.retain(|character| character.is_ascii_alphanumeric());
    LOOK_ALIKES.iter().any(|look_alike| name.ends_with(look_alike))
}

/// Why a token is not let through; for the log, which it tells nothing of the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// It is no JWT.
    Malformed,
    /// Its header has `crit`.
    Critical,
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
    /// A claim that does not count may have been meant as `sandbox_id`.
    LookAlike,
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a JWT",
            Self::Critical => "the header has crit, and no extension is understood here",
            Self::Algorithm => "the algorithm is another one",
            Self::Signature => "not signed with an accepted key",
            Self::Key => "kid names none of the team's keys",
            Self::Claims => "a claim is missing or of a wrong type; exp is required",
            Self::Expired => "expired",
            Self::NotYetValid => "not valid yet",
            Self::Issuer => "iss is another one",
            Self::Audience => {
                "aud is missing or names only others: it must include JWT_AUDIENCE, which is \
                 kiloclaw-telemetry unless it is set, or with Access ACCESS_AUD"
            }
            Self::Scope => "sandbox_id is not a string of 1 to 96 bytes",
            Self::LookAlike => {
                "a claim looks like a limit to one sandbox but is none: only sandbox_id is, at the top \
                 level or, with Access, under custom"
            }
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
/// that lies ahead, is for this Worker (`aud`) and, where `JWT_ISSUER` is set, of that issuer.
pub(crate) fn check(jwt: &Jwt, token: &str, now: DateTime<Utc>) -> Result<Operator, BadToken> {
    let token = read(token)?;
    let claims = verify(jwt, &token)?;

    check_time(&claims, now)?;
    let Named { sub, iss, aud, sandbox_id, email, common_name, custom, others } = claims.custom;
    if jwt.issuer.is_some() && iss != jwt.issuer {
        return Err(BadToken::Issuer);
    }
    if !aud.is_some_and(|aud| aud.includes(&jwt.audience)) {
        return Err(BadToken::Audience);
    }
    others.check()?;
    Text::check(email.as_ref())?;
    Text::check(common_name.as_ref())?;
    match custom {
        Some(Custom::Claims { sandbox_id: Some(_), .. }) => return Err(BadToken::LookAlike),
        Some(Custom::Claims { others, .. } | Custom::Other(others)) => others.check()?,
        None => {}
    }
    let sandbox = sandbox_id.map(Text::sandbox).transpose()?;
    Ok(Operator { sub, sandbox, via: Via::Jwt })
}

/// The claims of a token that one of the secrets signed.
fn verify(jwt: &Jwt, token: &Unverified<'_>) -> Result<Claims<Named>, BadToken> {
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
    token: &Unverified<'_>,
    now: DateTime<Utc>,
) -> Result<Operator, BadToken> {
    let claims = token.deserialize_claims_unchecked::<Named>()?;
    check_time(&claims, now)?;
    check_past(claims.issued_at, now)?;
    let Named { iss, aud, email, common_name, sub, sandbox_id, custom, others } = claims.custom;
    if iss.as_ref() != Some(&team.origin) {
        return Err(BadToken::Issuer);
    }
    if !aud.is_some_and(|aud| aud.includes(&team.audience)) {
        return Err(BadToken::Audience);
    }
    others.check()?;
    Text::check(email.as_ref())?;
    Text::check(common_name.as_ref())?;
    let custom = match custom {
        Some(Custom::Claims { sandbox_id, others }) => {
            others.check()?;
            Text::check(email.as_ref())?;
            Text::check(common_name.as_ref())?;
            sandbox_id
        }
        Some(Custom::Other(_)) => return Err(BadToken::Claims),
        None => None,
    };
    let scope = |claim: Option<Text>| claim.map(Text::sandbox).transpose();
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
