//! The claims of a token that are verified.

use kiloclaw_check_in::limits::MAX_SANDBOX_ID_BYTES;
use kiloclaw_json::Value;

use crate::error::TokenError;

/// The only sandbox that the token may see.
const SANDBOX_ID: &str = "sandbox_id";

/// Names that may be used by mistake for the limit to one sandbox, without case and punctuation.
const LOOK_ALIKES: [&str; 4] = ["sandbox", "sandboxes", "sandboxid", "sandboxids"];

/// A claim. A name that occurs twice is an error: which one counts would depend on the reader.
pub(crate) fn claim<'a>(claims: &'a Value, name: &str) -> Result<Option<&'a Value>, TokenError> {
    let mut values = members(claims).iter().filter(|(other, _)| other == name);
    match (values.next(), values.next()) {
        (first, None) => Ok(first.map(|(_, value)| value)),
        _ => Err(TokenError::Claims),
    }
}

/// A claim that must be a text, if there is one.
pub(crate) fn text<'a>(claims: &'a Value, name: &str) -> Result<Option<&'a str>, TokenError> {
    match claim(claims, name)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claims),
    }
}

/// A claim that only counts if it is a text; empty otherwise.
pub(crate) fn any_text<'a>(claims: &'a Value, name: &str) -> Result<&'a str, TokenError> {
    Ok(claim(claims, name)?.and_then(Value::as_str).unwrap_or_default())
}

/// Refuses a token for another audience. There may be one or several (RFC 7519, 4.1.3).
pub(crate) fn check_audience(claims: &Value, audience: &str) -> Result<(), TokenError> {
    let is_it = |one: &Value| one.as_str() == Some(audience);
    let includes = claim(claims, "aud")?.is_some_and(|aud| match aud {
        Value::List(several) => several.iter().any(is_it),
        one => is_it(one),
    });
    if includes { Ok(()) } else { Err(TokenError::Audience) }
}

/// The value of `sandbox_id`. Only a token without this claim is unlimited, so a value that is no id is an error.
pub(crate) fn sandbox(claims: &Value) -> Result<Option<&str>, TokenError> {
    match claim(claims, SANDBOX_ID)? {
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
