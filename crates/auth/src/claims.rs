//! The claims of a token that are verified.

use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;
use kiloclaw_json::Value;

use crate::error::TokenError;

/// The claim with the only sandbox that a token's bearer may see.
const SANDBOX_ID: &str = "sandbox_id";

/// The claims that count, besides times.
pub(crate) const KNOWN: &[&str] =
    &["sub", "iss", "aud", "jti", SANDBOX_ID, "scope", "email", "common_name", "custom"];

/// The claims that count under `custom`, with Access.
pub(crate) const KNOWN_CUSTOM: &[&str] = &[SANDBOX_ID, "scope"];

/// Names that may be used by mistake for the limit to one sandbox, without case and punctuation.
const LOOK_ALIKES: [&str; 4] = ["sandbox", "sandboxes", "sandboxid", "sandboxids"];

/// Checks that the claims that count have the types of RFC 7519 and occur once: which of two counts would depend on
/// the reader.
pub(crate) fn check(claims: &Value, known: &[&str]) -> Result<(), TokenError> {
    let is_text = |value: &Value| value.as_str().is_some();
    for name in known {
        let mut values = members(claims).iter().filter(|(other, _)| other == name);
        let is_right = values.next().is_none_or(|(_, value)| match (*name, value) {
            ("aud", Value::List(several)) => several.iter().all(is_text),
            ("sub" | "iss" | "aud" | "jti", value) => is_text(value) || *value == Value::Null,
            _ => true,
        });
        if !is_right || values.next().is_some() {
            return Err(TokenError::Claims);
        }
    }
    Ok(())
}

/// A claim that only counts if it is a text.
pub(crate) fn text<'a>(claims: &'a Value, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

/// Refuses a token for another audience. There may be one or several (RFC 7519, 4.1.3).
pub(crate) fn check_audience(claims: &Value, audience: &str) -> Result<(), TokenError> {
    let is_it = |one: &Value| one.as_str() == Some(audience);
    let includes = claims.get("aud").is_some_and(is_it) || claims.list("aud").iter().any(is_it);
    if includes { Ok(()) } else { Err(TokenError::Audience) }
}

/// The value of `sandbox_id`. Only a token without this claim is unlimited, so a value that is no id is an error.
pub(crate) fn sandbox(claims: &Value) -> Result<Option<&str>, TokenError> {
    match claims.get(SANDBOX_ID) {
        None => Ok(None),
        Some(Value::Text(id)) if (1..=MAX_SANDBOX_ID_BYTES).contains(&id.len()) => Ok(Some(id)),
        Some(_) => Err(TokenError::SandboxId),
    }
}

/// Refuses a claim that may have been meant as `sandbox_id`, at any depth: a token with a misspelt limit must not see
/// the whole fleet. Does not check `sandbox_id` itself, and the claim `except`.
pub(crate) fn check_look_alikes(claims: &Value, except: &str) -> Result<(), TokenError> {
    let is_suspect = |(name, value): &(String, Value)| {
        name != SANDBOX_ID && name != except && (is_look_alike(name) || has_look_alike(value))
    };
    if members(claims).iter().any(is_suspect) { Err(TokenError::LookAlike) } else { Ok(()) }
}

fn members(claims: &Value) -> &[(String, Value)] {
    if let Value::Map(members) = claims { members } else { &[] }
}

fn has_look_alike(value: &Value) -> bool {
    match value {
        Value::Map(members) => {
            members.iter().any(|(name, value)| is_look_alike(name) || has_look_alike(value))
        }
        Value::List(values) => values.iter().any(has_look_alike),
        _ => false,
    }
}

/// Whether a claim of this name may have been meant as `sandbox_id`, such as `sandboxId` or
/// `https://example.com/sandbox`.
fn is_look_alike(name: &str) -> bool {
    let mut name = name.to_ascii_lowercase();
    name.retain(|character| character.is_ascii_alphanumeric());
    LOOK_ALIKES.iter().any(|look_alike| name.ends_with(look_alike))
}
