//! Every way in which a request can fail: its status, its JSON body and its line in the log.

use std::borrow::Cow;

use js_sys::Reflect;
use kiloclaw_auth::TokenError;
use kiloclaw_check_in::{ErrorBody, Refusal};
use kiloclaw_fleet::InvalidParameter;
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

/// Why a request failed: what its client sees, and what the log says.
///
/// A pointer, as functions of every size return it: an enum with the reasons would be copied at each `?`.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    status: u16,
    header: Option<(&'static str, Cow<'static, str>)>,
    body: ErrorBody,
    /// Beside the code in the log; never in a response.
    detail: Option<String>,
}

impl ApiError {
    fn new(status: u16, error: &'static str, code: &'static str) -> Self {
        let body = ErrorBody::new(error, code);
        Self(Box::new(Failure { status, header: None, body, detail: None }))
    }

    fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.0.header = Some((name, value.into()));
        self
    }

    fn with_detail(mut self, detail: String) -> Self {
        self.0.detail = Some(detail);
        self
    }

    /// Names what breaks a rule, in the response and the log, and the rule.
    fn with_rule(mut self, field: Option<Cow<'static, str>>, expected: String) -> Self {
        self.0.detail = field.as_deref().map(str::to_owned);
        self.0.body.field = field;
        self.0.body.expected = Some(expected.into());
        self
    }

    /// A machine's API key is neither an accepted key nor a valid token.
    pub(crate) fn invalid_api_key(error: TokenError) -> Self {
        Self::from(Refusal::WrongApiKey).with_detail(error.to_string())
    }

    /// A setting for the reports is unusable; the response names it, as the request is authenticated.
    pub(crate) fn reports_misconfigured(error: ConfigError) -> Self {
        let mut refused = Self::from(error);
        refused.0.body.setting = Some(error.name);
        refused
    }

    /// Writing the data point failed.
    pub(crate) fn write_failed(reason: String) -> Self {
        Self::from(Refusal::WriteFailed).with_detail(reason)
    }

    fn unauthorized(code: &'static str) -> Self {
        Self::new(401, "Unauthorized", code).with_header("www-authenticate", "Bearer")
    }

    /// The request has no credential of a configured kind.
    pub(crate) fn missing_token() -> Self {
        Self::unauthorized("missing_token")
    }

    /// The bearer token is refused.
    pub(crate) fn invalid_token(error: TokenError) -> Self {
        let is_expired = matches!(error, TokenError::Expired);
        Self::unauthorized(if is_expired { "expired_token" } else { "invalid_token" })
            .with_detail(error.to_string())
    }

    /// The token of Cloudflare Access is refused.
    pub(crate) fn invalid_assertion(error: TokenError) -> Self {
        Self::invalid_token(error).with_detail(format!("Access: {error}"))
    }

    /// The keys of Cloudflare Access cannot be fetched or used.
    pub(crate) fn access_unavailable(reason: &str) -> Self {
        Self::unavailable("Access unavailable", "access_unavailable")
            .with_detail(format!("Access: {reason}"))
    }

    fn unavailable(error: &'static str, code: &'static str) -> Self {
        Self::new(503, error, code).with_header("retry-after", "5")
    }

    fn forbidden(code: &'static str) -> Self {
        Self::new(403, "Forbidden", code)
    }

    /// The internal key is not a value of `INTERNAL_API_SECRET`.
    pub(crate) fn wrong_internal_key() -> Self {
        Self::forbidden("wrong_internal_api_key")
    }

    /// The sandbox did not check in within the window.
    pub(crate) fn unknown_sandbox() -> Self {
        Self::new(404, "Not seen within the window", "unknown_sandbox")
    }

    /// The principal may not see this sandbox.
    pub(crate) fn other_sandbox() -> Self {
        Self::forbidden("other_sandbox")
    }

    /// The principal's token lacks the scope for changes.
    pub(crate) fn missing_scope() -> Self {
        Self::forbidden("missing_scope")
    }

    /// The body, or one field of it, is not valid for the route.
    pub(crate) fn invalid_body(field: Option<&'static str>, expected: String) -> Self {
        let code = if field.is_some() { "invalid_field" } else { "invalid_body" };
        Self::new(400, "Invalid body", code).with_rule(field.map(Cow::Borrowed), expected)
    }

    /// There are too many planned absences.
    pub(crate) fn too_many_absences() -> Self {
        Self::new(409, "Too many planned absences", "too_many_absences")
    }

    /// The watcher got too many requests, for this many seconds.
    pub(crate) fn watcher_busy(retry_after: u64) -> Self {
        Self::new(429, "Too many requests", "rate_limited")
            .with_header("retry-after", retry_after.to_string())
    }

    /// The watcher's object failed.
    pub(crate) fn watcher_unavailable(reason: &str) -> Self {
        Self::unavailable("Watcher unavailable", "watcher_unavailable")
            .with_detail(format!("WATCHER: {reason}"))
    }

    /// The runtime failed.
    pub(crate) fn internal(reason: String) -> Self {
        Self::new(500, "Internal error", "internal").with_detail(reason)
    }

    /// No route has this path.
    pub(crate) fn not_found() -> Self {
        Self::new(404, "Not found", "not_found")
    }

    /// The route allows only these methods.
    pub(crate) fn method_not_allowed(methods: &'static str) -> Self {
        Self::from(Refusal::MethodNotAllowed).with_header("allow", methods)
    }

    /// Whether it is this refusal, without a detail for the log.
    pub(crate) fn is(&self, refusal: Refusal) -> bool {
        self.0.body.code == refusal.code() && self.0.detail.is_none()
    }

    /// Logs the error as one line of JSON and builds the response.
    pub(crate) fn into_response(self) -> Response {
        self.into_response_to(None)
    }

    pub(crate) fn line(&self) -> String {
        self.line_for(None)
    }

    fn line_for(&self, sandbox_id: Option<&str>) -> String {
        let Failure { status, body, detail, .. } = &*self.0;
        let (status, code, detail) = (Some(*status), body.code, detail.as_deref());
        LogLine { status, code, sandbox_id, detail, ..LogLine::default() }.to_json()
    }

    /// Like [`into_response`](Self::into_response); the log also names the sandbox, if it is known.
    pub(crate) fn into_response_to(self, sandbox_id: Option<&str>) -> Response {
        let line = self.line_for(sandbox_id);
        let Failure { status, header, body, .. } = *self.0;
        let (name, value) = header.unzip();
        refuse(status, &body.to_json(), &line, name, value.as_deref())
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
        let header = refusal.header().map(|(name, value)| (name, value.into()));
        let detail = refusal.broken_rule().map(|(field, _)| field.to_owned());
        Self(Box::new(Failure { status: refusal.status(), header, body: refusal.body(), detail }))
    }
}

/// A secret or a binding is unusable; only the log names it.
impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self::from(Refusal::Misconfigured).with_detail(error.to_string())
    }
}

/// A parameter of the query is invalid.
impl From<InvalidParameter> for ApiError {
    fn from(invalid: InvalidParameter) -> Self {
        let (name, expected) = invalid.into_parts();
        Self::from(Refusal::InvalidQuery).with_rule(Some(name.into()), expected)
    }
}

/// A query to Analytics Engine failed.
impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let (status, code, detail) = match error {
            QueryError::Limited { retry_after } => {
                return Self::new(429, "Too many queries", "analytics_limited")
                    .with_header("retry-after", retry_after.to_string());
            }
            QueryError::Unreachable(reason) => (502, "analytics_unreachable", Some(reason)),
            QueryError::Refused { status, reason } => {
                (502, "analytics_refused", Some(format!("{status}: {reason}")))
            }
            QueryError::TooLarge => (502, "analytics_too_large", None),
            QueryError::Unexpected(reason) => (502, "analytics_unexpected", Some(reason)),
            QueryError::Timeout => (504, "analytics_timeout", None),
        };
        let mut failed = Self::new(status, "No answer from Analytics Engine", code);
        failed.0.detail = detail;
        failed
    }
}
