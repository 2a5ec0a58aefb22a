//! Responses to a check-in other than 204.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::payload::InvalidBody;

/// The query parameter that makes a check-in a dry run.
pub const DRY_RUN_PARAMETER: &str = "dry_run";

/// The kinds of missing credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The `authorization` header is missing.
    Authorization,
    /// The header holds no bearer token.
    Bearer,
    /// The gateway token is missing.
    GatewayToken,
}

/// Why a check-in was refused: the contract's status table, in the order of its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not a POST.
    MethodNotAllowed,
    /// A credential header is missing or malformed.
    MissingCredential(Credential),
    /// A secret or binding is missing or empty; the log names it.
    Misconfigured,
    /// The API key is not accepted.
    WrongApiKey,
    /// The query's `dry_run` has a value other than [1](crate::DRY_RUN_QUERY).
    InvalidQuery,
    /// The body exceeds [`MAX_BODY_BYTES`](crate::limits::MAX_BODY_BYTES).
    BodyTooLarge,
    /// The body is not a check-in.
    InvalidBody(InvalidBody),
    /// The gateway token is not this sandbox's.
    WrongGatewayToken,
    /// The sandbox is revoked.
    Revoked,
    /// The rate limiter refuses the sandbox; the client keeps its deltas and retries.
    RateLimited,
    /// The data point could not be written; the client keeps its deltas and retries.
    WriteFailed,
}

/// The JSON body of a refusal, and of the Worker's other errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The text for people.
    pub error: &'static str,
    /// The reason for programs.
    pub code: &'static str,
    /// The setting that is unusable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<&'static str>,
    /// The field or parameter that breaks a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Cow<'static, str>>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Cow<'static, str>>,
}

impl ErrorBody {
    /// A body without a setting and a rule.
    #[must_use]
    pub const fn new(error: &'static str, code: &'static str) -> Self {
        Self { error, code, setting: None, field: None, expected: None }
    }

    /// The body as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        kiloclaw_json::to_string(self)
    }
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidQuery | Self::InvalidBody(_) => 400,
            Self::MissingCredential(_) => 401,
            Self::WrongApiKey | Self::WrongGatewayToken | Self::Revoked => 403,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::RateLimited => 429,
            Self::Misconfigured | Self::WriteFailed => 503,
        }
    }

    /// The text for people. Part of the wire contract.
    #[must_use]
    pub const fn error(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "Method not allowed",
            Self::MissingCredential(_) => "Unauthorized",
            Self::Misconfigured => "Configuration error",
            Self::WrongApiKey | Self::WrongGatewayToken | Self::Revoked => "Forbidden",
            Self::RateLimited => "Too many requests",
            Self::InvalidQuery => "Invalid query",
            Self::BodyTooLarge => "Body too large",
            Self::InvalidBody(_) => "Invalid body",
            Self::WriteFailed => "Write failed",
        }
    }

    /// The reason for programs. Never rename or reuse one.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method_not_allowed",
            Self::MissingCredential(Credential::Authorization) => "missing_authorization",
            Self::MissingCredential(Credential::Bearer) => "not_a_bearer_token",
            Self::MissingCredential(Credential::GatewayToken) => "missing_gateway_token",
            Self::Misconfigured => "misconfigured",
            Self::WrongApiKey => "wrong_api_key",
            Self::InvalidQuery => "invalid_query",
            Self::BodyTooLarge => "body_too_large",
            Self::InvalidBody(InvalidBody::NotJson) => "not_json",
            Self::InvalidBody(InvalidBody::NotAnObject) => "not_an_object",
            Self::InvalidBody(InvalidBody::Field(_)) => "invalid_field",
            Self::WrongGatewayToken => "wrong_gateway_token",
            Self::Revoked => "revoked",
            Self::RateLimited => "rate_limited",
            Self::WriteFailed => "write_failed",
        }
    }

    /// The header that the status requires, if any.
    #[must_use]
    pub const fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::MethodNotAllowed => Some(("allow", "POST")),
            Self::MissingCredential(_) => Some(("www-authenticate", "Bearer")),
            Self::Misconfigured | Self::WriteFailed => Some(("retry-after", "30")),
            // The longer of the two periods of Cloudflare's rate limits.
            Self::RateLimited => Some(("retry-after", "60")),
            _ => None,
        }
    }

    /// The field of the body, or the parameter of the query, that breaks its rule; and the rule.
    #[must_use]
    pub const fn broken_rule(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::InvalidQuery => Some((DRY_RUN_PARAMETER, "1, or left out")),
            Self::InvalidBody(InvalidBody::Field(field)) => Some((field.name(), field.rule())),
            _ => None,
        }
    }

    /// The body: `error` and `code`, and for a broken rule `field` and `expected`.
    #[must_use]
    pub fn body(self) -> ErrorBody {
        let (field, expected) = self.broken_rule().unzip();
        let mut body = ErrorBody::new(self.error(), self.code());
        body.field = field.map(Cow::Borrowed);
        body.expected = expected.map(Cow::Borrowed);
        body
    }
}

impl From<InvalidBody> for Refusal {
    fn from(invalid: InvalidBody) -> Self {
        Self::InvalidBody(invalid)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.status(), self.error(), self.code())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Field;

    #[test]
    fn the_status_table_is_pinned() {
        use Credential::{Authorization, Bearer, GatewayToken};
        use InvalidBody::{NotAnObject, NotJson};
        use Refusal::{InvalidBody as Body, MissingCredential as Missing};
        let table = [
            (Refusal::MethodNotAllowed, 405, "Method not allowed", "method_not_allowed"),
            (Missing(Authorization), 401, "Unauthorized", "missing_authorization"),
            (Missing(Bearer), 401, "Unauthorized", "not_a_bearer_token"),
            (Missing(GatewayToken), 401, "Unauthorized", "missing_gateway_token"),
            (Refusal::Misconfigured, 503, "Configuration error", "misconfigured"),
            (Refusal::WrongApiKey, 403, "Forbidden", "wrong_api_key"),
            (Refusal::BodyTooLarge, 413, "Body too large", "body_too_large"),
            (Body(NotJson), 400, "Invalid body", "not_json"),
            (Body(NotAnObject), 400, "Invalid body", "not_an_object"),
            (Refusal::WrongGatewayToken, 403, "Forbidden", "wrong_gateway_token"),
            (Refusal::Revoked, 403, "Forbidden", "revoked"),
            (Refusal::RateLimited, 429, "Too many requests", "rate_limited"),
            (Refusal::WriteFailed, 503, "Write failed", "write_failed"),
        ];
        for (refusal, status, error, code) in table {
            assert_eq!((refusal.status(), refusal.error(), refusal.code()), (status, error, code));
            assert_eq!(
                refusal.body().to_json(),
                format!(r#"{{"error":"{error}","code":"{code}"}}"#)
            );
        }
    }

    #[test]
    fn an_invalid_field_is_named_with_its_rule() {
        assert_eq!(
            Refusal::InvalidBody(InvalidBody::Field(Field::LoadAvg5m)).body().to_json(),
            r#"{"error":"Invalid body","code":"invalid_field","field":"loadAvg5m","expected":"a number from 0 to 4194304"}"#
        );
        assert_eq!(
            Refusal::InvalidQuery.body().to_json(),
            r#"{"error":"Invalid query","code":"invalid_query","field":"dry_run","expected":"1, or left out"}"#
        );
        assert_eq!(Refusal::InvalidQuery.status(), 400);
    }

    #[test]
    fn each_status_has_its_header() {
        let header = |refusal: Refusal| refusal.header();
        assert_eq!(header(Refusal::MethodNotAllowed), Some(("allow", "POST")));
        assert_eq!(
            header(Refusal::MissingCredential(Credential::Bearer)),
            Some(("www-authenticate", "Bearer"))
        );
        assert_eq!(header(Refusal::Misconfigured), Some(("retry-after", "30")));
        assert_eq!(header(Refusal::WriteFailed), Some(("retry-after", "30")));
        assert_eq!(header(Refusal::RateLimited), Some(("retry-after", "60")));
        assert_eq!(header(Refusal::WrongApiKey), None);
    }
}
