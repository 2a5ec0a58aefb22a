//! What the Worker answers: JSON, and a line in the log for every refusal.

use std::borrow::Cow;

use kiloclaw_check_in::Refusal;
use serde::Serialize;
use serde_json::json;
use worker::wasm_bindgen::prelude::*;
use worker::{Response, web_sys};

use crate::analytics::Unanswered;
use crate::bindings::Unusable;
use crate::jwt::BadToken;
use crate::operators::Failure;

#[wasm_bindgen(module = "/src/answer.js")]
extern "C" {
    fn refuse(
        status: u16,
        body: &str,
        line: &str,
        name: Option<&str>,
        value: Option<&str>,
    ) -> web_sys::Response;
}

/// Every way in which a request can fail.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A check-in was refused, for a reason that its contract names.
    CheckIn(Refusal),
    /// A secret or a binding cannot be used. Which one is for the log alone.
    Misconfigured(Unusable),
    /// The data point could not be written; the runtime's own words are for the log alone.
    WriteFailed(String),
    /// A request to the operators' API has no credential that a way is open for.
    MissingToken,
    /// The bearer token is none that the gate lets through; why is for the log alone.
    InvalidToken(BadToken),
    /// The token of Cloudflare Access is none that the gate lets through; why is for the log alone.
    InvalidAssertion(BadToken),
    /// The keys of Cloudflare Access cannot be fetched or used, for this reason, for the log alone.
    AccessUnavailable(String),
    /// The internal key is not a value of `INTERNAL_API_SECRET`.
    WrongInternalKey,
    /// A question about the fleet has no answer.
    Reading(Failure),
    /// The runtime failed a handler, with these words for the log alone.
    Internal(String),
    /// Nothing is served here.
    NotFound,
    /// Something is served here, but only for these methods.
    MethodNotAllowed(&'static str),
}

/// What a failure looks like from outside.
struct Shape {
    status: u16,
    code: &'static str,
    header: Option<(&'static str, Cow<'static, str>)>,
    body: String,
}

impl From<Refusal> for Shape {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: refusal.status(),
            code: refusal.code(),
            header: refusal.header().map(|(name, value)| (name, value.into())),
            body: refusal.body(),
        }
    }
}

impl Shape {
    /// A failure that the check-in's contract does not know.
    fn new(
        status: u16,
        error: &'static str,
        code: &'static str,
        header: Option<(&'static str, &'static str)>,
    ) -> Self {
        let header = header.map(|(name, value)| (name, value.into()));
        Self { status, code, header, body: json!({ "error": error, "code": code }).to_string() }
    }

    fn unauthorized(code: &'static str) -> Self {
        Self::new(401, "Unauthorized", code, Some(("www-authenticate", "Bearer")))
    }
}

impl From<&Failure> for Shape {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::InvalidParameter(invalid) => {
                let (error, code) = (Refusal::InvalidQuery.error(), Refusal::InvalidQuery.code());
                let (field, expected) = (&invalid.name, &invalid.expected);
                let body =
                    json!({ "error": error, "code": code, "field": field, "expected": expected });
                Self { body: body.to_string(), ..Refusal::InvalidQuery.into() }
            }
            Failure::NotConfigured(unusable) => {
                let (error, code) = (Refusal::Misconfigured.error(), Refusal::Misconfigured.code());
                let body = json!({ "error": error, "code": code, "setting": unusable.name });
                Self { body: body.to_string(), ..Refusal::Misconfigured.into() }
            }
            Failure::UnknownSandbox => {
                Self::new(404, "Not seen within the window", "unknown_sandbox", None)
            }
            Failure::OtherSandbox => Self::new(403, "Forbidden", "other_sandbox", None),
            Failure::Unanswered(unanswered) => unanswered.into(),
        }
    }
}

impl From<&Unanswered> for Shape {
    fn from(unanswered: &Unanswered) -> Self {
        const NO_ANSWER: &str = "No answer from Analytics Engine";
        match unanswered {
            Unanswered::Limited { retry_after } => Self {
                header: Some(("retry-after", retry_after.to_string().into())),
                ..Self::new(429, "Too many queries", "analytics_limited", None)
            },
            Unanswered::Unreachable(_) => Self::new(502, NO_ANSWER, "analytics_unreachable", None),
            Unanswered::Refused { .. } => Self::new(502, NO_ANSWER, "analytics_refused", None),
            Unanswered::TooLarge => Self::new(502, NO_ANSWER, "analytics_too_large", None),
            Unanswered::Unexpected(_) => Self::new(502, NO_ANSWER, "analytics_unexpected", None),
            Unanswered::Timeout => Self::new(504, NO_ANSWER, "analytics_timeout", None),
        }
    }
}

/// A refusal in the log: one line, with no secret and no credential in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogLine<'a> {
    status: u16,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl ApiError {
    fn shape(&self) -> Shape {
        match self {
            Self::CheckIn(refusal) => (*refusal).into(),
            Self::Misconfigured(_) => Refusal::Misconfigured.into(),
            Self::WriteFailed(_) => Refusal::WriteFailed.into(),
            Self::MissingToken => Shape::unauthorized("missing_token"),
            Self::InvalidToken(BadToken::Expired) | Self::InvalidAssertion(BadToken::Expired) => {
                Shape::unauthorized("expired_token")
            }
            Self::InvalidToken(_) | Self::InvalidAssertion(_) => {
                Shape::unauthorized("invalid_token")
            }
            Self::AccessUnavailable(_) => {
                let retry_after = Some(("retry-after", "5"));
                Shape::new(503, "Access unavailable", "access_unavailable", retry_after)
            }
            Self::WrongInternalKey => Shape::new(403, "Forbidden", "wrong_internal_api_key", None),
            Self::Reading(failure) => failure.into(),
            Self::Internal(_) => Shape::new(500, "Internal error", "internal", None),
            Self::NotFound => Shape::new(404, "Not found", "not_found", None),
            Self::MethodNotAllowed(methods) => {
                let header = Some(("allow", (*methods).into()));
                Shape { header, ..Refusal::MethodNotAllowed.into() }
            }
        }
    }

    /// What the log says beyond the code.
    fn detail(&self) -> Option<String> {
        match self {
            Self::CheckIn(refusal) => refusal.broken_rule().map(|(field, _)| field.to_owned()),
            Self::Misconfigured(unusable) => Some(unusable.to_string()),
            Self::WriteFailed(reason) | Self::Internal(reason) => Some(reason.clone()),
            Self::InvalidToken(bad) => Some(bad.to_string()),
            Self::Reading(failure) => failure.detail(),
            Self::InvalidAssertion(bad) => Some(format!("Access: {bad}")),
            Self::AccessUnavailable(reason) => Some(format!("Access: {reason}")),
            Self::MissingToken
            | Self::WrongInternalKey
            | Self::NotFound
            | Self::MethodNotAllowed(_) => None,
        }
    }

    /// Logs the failure as one line of JSON and turns it into an answer.
    pub(crate) fn into_response(self) -> worker::Result<Response> {
        self.into_response_for(None)
    }

    /// The same, as the runtime takes it.
    pub(crate) fn into_js(self, sandbox_id: Option<&str>) -> JsValue {
        into_js(self.into_response_for(sandbox_id))
    }

    /// The same, where it is known which sandbox asked.
    fn into_response_for(self, sandbox_id: Option<&str>) -> worker::Result<Response> {
        let Shape { status, code, header, body } = self.shape();
        let line = LogLine { status, code, sandbox_id, detail: self.detail() };
        let line = serde_json::to_string(&line)?;
        let (name, value) = header.unzip();
        Ok(refuse(status, &body, &line, name, value.as_deref()).into())
    }
}

/// What a handler ends with, as the runtime takes it.
pub(crate) fn into_js(result: worker::Result<Response>) -> JsValue {
    let response = result.or_else(|error| ApiError::from(error).into_response());
    // Only a failure to build the answer to a failure is left: the runtime then answers 500.
    response.map_or(JsValue::UNDEFINED, |response| web_sys::Response::from(response).into())
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::CheckIn(refusal)
    }
}

impl From<Unusable> for ApiError {
    fn from(unusable: Unusable) -> Self {
        Self::Misconfigured(unusable)
    }
}

impl From<worker::Error> for ApiError {
    fn from(error: worker::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

/// A 200 that nobody may keep.
pub(crate) fn json(value: &impl Serialize) -> worker::Result<Response> {
    json_text(&serde_json::to_string(value)?, "no-store")
}

/// A 200 of JSON that is there already.
pub(crate) fn json_text(json: &str, cache_control: &str) -> worker::Result<Response> {
    let response = Response::builder()
        .with_header("cache-control", cache_control)?
        .with_header("content-type", "application/json")?;
    no_sniff(response.fixed(json.as_bytes().to_vec()))
}

/// An answer that browsers take for what its type says, whatever texts from machines are in it.
pub(crate) fn no_sniff(response: Response) -> worker::Result<Response> {
    response.headers().set("x-content-type-options", "nosniff")?;
    Ok(response)
}
