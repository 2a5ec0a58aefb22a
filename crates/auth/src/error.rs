//! Why a token is refused.

use std::fmt;

use jwt_compact::ValidationError;

/// Why a token is refused. The text is for the log, and contains no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The text is not a JWT.
    Malformed,
    /// The header has `crit`.
    Critical,
    /// The header names an algorithm that is not accepted.
    Algorithm,
    /// The signature is not valid under any accepted key.
    Signature,
    /// `kid` names none of the Access team's keys.
    Key,
    /// A required claim is missing, or a claim has the wrong type.
    Claims,
    /// `exp` is in the past.
    Expired,
    /// `nbf` or, with Access, `iat` is in the future.
    NotYetValid,
    /// `iss` is not the accepted issuer.
    Issuer,
    /// `aud` does not include the accepted audience.
    Audience,
    /// `sandbox_id` is present but cannot be a sandbox's id.
    SandboxId,
    /// Another claim may have been meant as `sandbox_id`.
    LookAlike,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a JWT",
            Self::Critical => "the header has crit, and no extension is supported",
            Self::Algorithm => "the algorithm is not the accepted one",
            Self::Signature => "not signed with an accepted key",
            Self::Key => "kid names none of the team's keys",
            Self::Claims => "a claim is missing or has the wrong type; exp is required",
            Self::Expired => "expired",
            Self::NotYetValid => "not valid yet",
            Self::Issuer => "iss is not the accepted issuer",
            Self::Audience => {
                "aud does not include this audience: JWT_AUDIENCE (kiloclaw-telemetry unless it is set), with \
                 Access ACCESS_AUD, in a machine's key KILOCODE_API_KEY_JWT_AUDIENCE"
            }
            Self::SandboxId => "sandbox_id is not a string of 1 to 96 bytes",
            Self::LookAlike => {
                "a claim looks like a limit to one sandbox but is not: only sandbox_id counts, at the top \
                 level or, with Access, under custom"
            }
        })
    }
}

impl From<ValidationError> for TokenError {
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
