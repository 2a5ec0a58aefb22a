//! Every way in which a request can fail: its status, its JSON body and its line in the log.

use std::borrow::Cow;

use js_sys::Reflect;
use kiloclaw_auth::TokenError;
use kiloclaw_check_in::Refusal;
use kiloclaw_fleet::InvalidParameter;
use serde::Serialize;
use wasm_bindgen::prelude::*;
use web_sys::Response;

use crate::analytics::QueryError;
use crate::bindings::ConfigError;
use crate::log::LogLine;

#[wasm_bindgen(module = "/src/response.js")]
extern "C" {
    fn refuse(
        status: u16,
        body: &str,
        line: &str,
        name: Option<&str>,
        value: Option<&str>,
    ) -> Response;
}

/// Every way in which a request can fail. A text in a variant goes to the log and never into a response.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A check-in was refused for a reason in its contract.
    CheckIn(Refusal),
    /// A machine's API key is neither an accepted key nor a valid token.
    InvalidApiKey(TokenError),
    /// A secret or a binding is unusable; only the log names it.
    Misconfigured(ConfigError),
    /// A setting for the reports is unusable; the response names it, as the request is authenticated.
    ReportsMisconfigured(ConfigError),
    /// Writing the data point failed.
    WriteFailed(String),
    /// The request has no credential of a configured kind.
    MissingToken,
    /// The bearer token is refused.
    InvalidToken(TokenError),
    /// The token of Cloudflare Access is refused.
    InvalidAssertion(TokenError),
    /// The keys of Cloudflare Access cannot be fetched or used.
    AccessUnavailable(String),
    /// The internal key is not a value of `INTERNAL_API_SECRET`.
    WrongInternalKey,
    /// A parameter of the query is invalid.
    InvalidParameter(InvalidParameter),
    /// The sandbox did not check in within the window.
    UnknownSandbox,
    /// The principal may not see this sandbox.
    OtherSandbox,
    /// The principal's token lacks the scope for changes.
    MissingScope,
    /// The body is not valid for the route.
    InvalidBody { field: Option<&'static str>, expected: String },
    /// There are too many planned absences.
    TooManyAbsences,
    /// The watcher got too many requests.
    WatcherBusy {
        /// In seconds.
        retry_after: u64,
    },
    /// The watcher's object failed.
    WatcherUnavailable(String),
    /// A query to Analytics Engine failed.
    Query(QueryError),
    /// The runtime failed.
    Internal(String),
    /// No route has this path.
    NotFound,
    /// The route allows only these methods.
    MethodNotAllowed(&'static str),
}

/// What a client sees of an error.
struct ErrorResponse {
    status: u16,
    code: &'static str,
    header: Option<(&'static str, Cow<'static, str>)>,
    body: String,
}

impl From<Refusal> for ErrorResponse {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: refusal.status(),
            code: refusal.code(),
            header: refusal.header().map(|(name, value)| (name, value.into())),
            body: refusal.body(),
        }
    }
}

impl ErrorResponse {
    fn new(status: u16, error: &'static str, code: &'static str) -> Self {
        let body = Body { error, code, ..Body::default() }.to_json();
        Self { status, code, header: None, body }
    }

    fn unauthorized(code: &'static str) -> Self {
        Self::new(401, "Unauthorized", code).with("www-authenticate", "Bearer")
    }

    fn query_failed(status: u16, code: &'static str) -> Self {
        Self::new(status, "No answer from Analytics Engine", code)
    }

    fn with(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }
}

/// The body of an error.
#[derive(Default, Serialize)]
struct Body<'a> {
    error: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    setting: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
}

impl Body<'_> {
    fn to_json(&self) -> String {
        kiloclaw_json::to_string(self)
    }
}

impl ApiError {
    fn response(&self) -> ErrorResponse {
        match self {
            Self::CheckIn(refusal) => (*refusal).into(),
            Self::InvalidApiKey(_) => Refusal::WrongApiKey.into(),
            Self::Misconfigured(_) => Refusal::Misconfigured.into(),
            Self::ReportsMisconfigured(error) => {
                let (text, code) = (Refusal::Misconfigured.error(), Refusal::Misconfigured.code());
                let setting = Some(error.name);
                let body = Body { error: text, code, setting, ..Body::default() };
                ErrorResponse { body: body.to_json(), ..Refusal::Misconfigured.into() }
            }
            Self::WriteFailed(_) => Refusal::WriteFailed.into(),
            Self::MissingToken => ErrorResponse::unauthorized("missing_token"),
            Self::InvalidToken(TokenError::Expired)
            | Self::InvalidAssertion(TokenError::Expired) => {
                ErrorResponse::unauthorized("expired_token")
            }
            Self::InvalidToken(_) | Self::InvalidAssertion(_) => {
                ErrorResponse::unauthorized("invalid_token")
            }
            Self::AccessUnavailable(_) => {
                ErrorResponse::new(503, "Access unavailable", "access_unavailable")
                    .with("retry-after", "5")
            }
            Self::WrongInternalKey => {
                ErrorResponse::new(403, "Forbidden", "wrong_internal_api_key")
            }
            Self::InvalidParameter(InvalidParameter { name, expected, .. }) => {
                let (text, code) = (Refusal::InvalidQuery.error(), Refusal::InvalidQuery.code());
                let (field, expected) = (Some(&**name), Some(&**expected));
                let body = Body { error: text, code, field, expected, ..Body::default() };
                ErrorResponse { body: body.to_json(), ..Refusal::InvalidQuery.into() }
            }
            Self::UnknownSandbox => {
                ErrorResponse::new(404, "Not seen within the window", "unknown_sandbox")
            }
            Self::OtherSandbox => ErrorResponse::new(403, "Forbidden", "other_sandbox"),
            Self::MissingScope => ErrorResponse::new(403, "Forbidden", "missing_scope"),
            Self::InvalidBody { field, expected } => {
                let code = if field.is_some() { "invalid_field" } else { "invalid_body" };
                let (error, expected) = ("Invalid body", Some(&**expected));
                let body = Body { error, code, field: *field, expected, ..Body::default() };
                ErrorResponse { status: 400, code, header: None, body: body.to_json() }
            }
            Self::TooManyAbsences => {
                ErrorResponse::new(409, "Too many planned absences", "too_many_absences")
            }
            Self::WatcherBusy { retry_after } => {
                ErrorResponse::new(429, "Too many requests", "rate_limited")
                    .with("retry-after", retry_after.to_string())
            }
            Self::WatcherUnavailable(_) => {
                ErrorResponse::new(503, "Watcher unavailable", "watcher_unavailable")
                    .with("retry-after", "5")
            }
            Self::Query(error) => match error {
                QueryError::Limited { retry_after } => {
                    ErrorResponse::new(429, "Too many queries", "analytics_limited")
                        .with("retry-after", retry_after.to_string())
                }
                QueryError::Unreachable(_) => {
                    ErrorResponse::query_failed(502, "analytics_unreachable")
                }
                QueryError::Refused { .. } => ErrorResponse::query_failed(502, "analytics_refused"),
                QueryError::TooLarge => ErrorResponse::query_failed(502, "analytics_too_large"),
                QueryError::Unexpected(_) => {
                    ErrorResponse::query_failed(502, "analytics_unexpected")
                }
                QueryError::Timeout => ErrorResponse::query_failed(504, "analytics_timeout"),
            },
            Self::Internal(_) => ErrorResponse::new(500, "Internal error", "internal"),
            Self::NotFound => ErrorResponse::new(404, "Not found", "not_found"),
            Self::MethodNotAllowed(methods) => {
                ErrorResponse::from(Refusal::MethodNotAllowed).with("allow", *methods)
            }
        }
    }

    /// The log's detail beside the code.
    fn detail(&self) -> Option<String> {
        match self {
            Self::CheckIn(refusal) => refusal.broken_rule().map(|(field, _)| field.to_owned()),
            Self::Misconfigured(error) | Self::ReportsMisconfigured(error) => {
                Some(error.to_string())
            }
            Self::WriteFailed(reason)
            | Self::Internal(reason)
            | Self::Query(QueryError::Unreachable(reason) | QueryError::Unexpected(reason)) => {
                Some(reason.clone())
            }
            Self::InvalidApiKey(error) | Self::InvalidToken(error) => Some(error.to_string()),
            Self::InvalidAssertion(error) => Some(format!("Access: {error}")),
            Self::AccessUnavailable(reason) => Some(format!("Access: {reason}")),
            Self::WatcherUnavailable(reason) => Some(format!("WATCHER: {reason}")),
            Self::InvalidBody { field, .. } => field.map(str::to_owned),
            Self::InvalidParameter(invalid) => Some(invalid.name.clone()),
            Self::Query(QueryError::Refused { status, reason }) => {
                Some(format!("{status}: {reason}"))
            }
            Self::Query(
                QueryError::Limited { .. } | QueryError::Timeout | QueryError::TooLarge,
            )
            | Self::MissingToken
            | Self::WrongInternalKey
            | Self::UnknownSandbox
            | Self::OtherSandbox
            | Self::MissingScope
            | Self::TooManyAbsences
            | Self::WatcherBusy { .. }
            | Self::NotFound
            | Self::MethodNotAllowed(_) => None,
        }
    }

    /// Logs the error as one line of JSON and builds the response.
    pub(crate) fn into_response(self) -> Response {
        self.into_response_to(None)
    }

    pub(crate) fn line(&self) -> String {
        self.line_for(None)
    }

    fn line_for(&self, sandbox_id: Option<&str>) -> String {
        let ErrorResponse { status, code, .. } = self.response();
        let detail = self.detail();
        let (status, detail) = (Some(status), detail.as_deref());
        LogLine { status, code, sandbox_id, detail, ..LogLine::default() }.to_json()
    }

    /// Like [`into_response`](Self::into_response); the log also names the sandbox, if it is known.
    pub(crate) fn into_response_to(self, sandbox_id: Option<&str>) -> Response {
        let line = self.line_for(sandbox_id);
        let ErrorResponse { status, header, body, .. } = self.response();
        let (name, value) = header.unzip();
        refuse(status, &body, &line, name, value.as_deref())
    }
}

/// The message of what JavaScript threw.
pub(crate) fn message(thrown: &JsValue) -> String {
    // Any value can be thrown, and even an Error's message can be any value.
    #[expect(clippy::disallowed_methods, reason = "no binding")]
    let message = Reflect::get(thrown, &"message".into());
    let message = message.as_ref().unwrap_or(thrown).as_string();
    message.unwrap_or_else(|| "it threw no Error".to_owned())
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::CheckIn(refusal)
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self::Misconfigured(error)
    }
}

impl From<InvalidParameter> for ApiError {
    fn from(invalid: InvalidParameter) -> Self {
        Self::InvalidParameter(invalid)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}
