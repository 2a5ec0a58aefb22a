//! The claims of a token that are verified.

use std::fmt;

use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::TokenError;
use crate::token::present;

/// Names that may be used by mistake for the limit to one sandbox, without case and punctuation.
const LOOK_ALIKES: [&str; 4] = ["sandbox", "sandboxes", "sandboxid", "sandboxids"];

/// The claims that count, besides times. Both kinds of token share this type: a second type would add 4 kB to the
/// bundle.
#[derive(Deserialize)]
pub(crate) struct Known {
    pub(crate) sub: Option<String>,
    pub(crate) iss: Option<String>,
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "present")]
    pub(crate) sandbox_id: Option<ClaimText>,
    /// With Access: a person's name.
    pub(crate) email: Option<ClaimText>,
    /// With Access: a service token's name.
    pub(crate) common_name: Option<ClaimText>,
    /// What the bearer may change: names, separated by spaces (RFC 8693, 4.2).
    pub(crate) scope: Option<ClaimText>,
    /// With Access: claims from the identity provider.
    pub(crate) custom: Option<Custom>,
    #[serde(flatten)]
    others: OtherClaims,
}

impl Known {
    /// Refuses a token for another audience.
    pub(crate) fn check_audience(&self, audience: &str) -> Result<(), TokenError> {
        let includes = self.aud.as_ref().is_some_and(|aud| aud.includes(audience));
        if includes { Ok(()) } else { Err(TokenError::Audience) }
    }

    /// Refuses [look-alikes](OtherClaims::check) outside of `custom`.
    pub(crate) fn check_look_alikes(&self) -> Result<(), TokenError> {
        self.others.check()?;
        for claim in [&self.email, &self.common_name] {
            if let Some(ClaimText::Other(others)) = claim {
                others.check()?;
            }
        }
        Ok(())
    }
}

/// One audience or several (RFC 7519, 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
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

/// A claim that should be a text, or another value.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ClaimText {
    Text(String),
    Other(OtherClaims),
}

impl ClaimText {
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// The value of `scope`. A value that is not a text grants nothing.
    pub(crate) fn scope(claim: Option<Self>) -> Result<String, TokenError> {
        match claim {
            Some(Self::Text(text)) => Ok(text),
            Some(Self::Other(others)) => others.check().map(|()| String::new()),
            None => Ok(String::new()),
        }
    }

    /// The value of `sandbox_id`: the only sandbox that the token may see. Only a token without this claim is
    /// unlimited, so any other value is an error.
    pub(crate) fn sandbox(self) -> Result<String, TokenError> {
        let is_id = |id: &String| (1..=MAX_SANDBOX_ID_BYTES).contains(&id.len());
        self.text().filter(is_id).ok_or(TokenError::SandboxId)
    }
}

/// The claim `custom`, or another value.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Custom {
    Claims {
        #[serde(default, deserialize_with = "present")]
        sandbox_id: Option<ClaimText>,
        scope: Option<ClaimText>,
        #[serde(flatten)]
        others: OtherClaims,
    },
    Other(OtherClaims),
}

/// All other claims. Only their names count, at any depth: a token with a misspelt limit must not see the whole fleet.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OtherClaims {
    has_look_alike: bool,
}

impl OtherClaims {
    /// Refuses a name that may have been meant as `sandbox_id`.
    pub(crate) fn check(self) -> Result<(), TokenError> {
        if self.has_look_alike { Err(TokenError::LookAlike) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for OtherClaims {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self::default())
    }
}

impl<'de> Visitor<'de> for OtherClaims {
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

/// Whether a claim of this name may have been meant as `sandbox_id`, such as `sandboxId` or
/// `https://example.com/sandbox`.
fn is_look_alike(name: &str) -> bool {
    let mut name = name.to_ascii_lowercase();
    name.retain(|character| character.is_ascii_alphanumeric());
    LOOK_ALIKES.iter().any(|look_alike| name.ends_with(look_alike))
}
