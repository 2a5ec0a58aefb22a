//! Sends a check-in, and classifies the response.

use std::time::{Duration, SystemTime};

use kiloclaw_check_in::GATEWAY_TOKEN_HEADER;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{HeaderName, Response, StatusCode, Uri, header};

use crate::config::Target;
use crate::daemon::schedule::Completion;
use crate::exit::Exit;
use crate::http::{self, NoAnswer};

/// The outcome of a check-in.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 204. Any other 2xx comes from something in front of the server, such as a login page.
    Accepted(StatusCode),
    /// 3xx. The agent does not follow it: credentials go only to the configured URL.
    Redirected(ErrorResponse),
    /// 429 or 5xx: try again later.
    TryLater(ErrorResponse),
    /// Any other response: a retry will not help.
    Refused(ErrorResponse),
    /// No response.
    Unreachable(NoAnswer),
}

/// A response that is not an acceptance.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    pub status: StatusCode,
    /// Scheme and host of a redirect's target; the rest may hold secrets.
    pub location: Option<String>,
    /// `retry-after`: seconds or a date.
    pub retry_after: Option<String>,
    /// The `date` header: the server's time.
    pub date: Option<SystemTime>,
    /// Why Cloudflare answered instead of the server (`cf-mitigated`).
    pub mitigated: Option<String>,
    /// The body, if it has the contract's format. Otherwise another server answered, or something in front of the
    /// server.
    pub refusal: Option<RefusalBody>,
}

/// The JSON body of a refusal.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct RefusalBody {
    pub error: String,
    /// The reason, for programs.
    pub code: String,
    /// The invalid field of the check-in.
    pub field: Option<String>,
    /// The field's rule.
    pub expected: Option<String>,
}

impl ErrorResponse {
    /// How long to wait before a retry. A date is relative to the server's `Date` header or, without one, to `now`.
    #[must_use]
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let text = self.retry_after.as_deref()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(self.date.unwrap_or(now)).unwrap_or_default())
    }

    /// The server's code or, without one, `http_<status>`.
    #[must_use]
    pub fn code(&self) -> String {
        match &self.refusal {
            Some(body) => body.code.clone(),
            None => format!("http_{}", self.status.as_u16()),
        }
    }
}

impl Outcome {
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Accepted(_) => Exit::Done,
            Self::TryLater(_) | Self::Unreachable(_) => Exit::Unavailable,
            Self::Redirected(_) | Self::Refused(_) => Exit::Refused,
        }
    }

    #[must_use]
    pub fn completion(&self, now: SystemTime) -> Completion {
        match self {
            Self::Accepted(_) => Completion::Accepted,
            Self::TryLater(response) => Completion::TryLater(response.retry_after(now)),
            Self::Unreachable(_) => Completion::TryLater(None),
            Self::Redirected(_) | Self::Refused(_) => Completion::Refused,
        }
    }

    /// The reason for programs; `None` if accepted.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        match self {
            Self::Accepted(_) => None,
            Self::Unreachable(NoAnswer { cause, .. }) => Some(cause.code().to_owned()),
            Self::TryLater(response) | Self::Redirected(response) | Self::Refused(response) => {
                Some(response.code())
            }
        }
    }
}

/// Posts a check-in's body once, within `timeout` or the target's own timeout, whichever is shorter.
#[must_use]
pub fn send(target: &Target, body: &str, timeout: Duration) -> Outcome {
    send_to(target, &target.url, body, timeout)
}

/// Posts a check-in's body to `url` instead of the target's URL.
#[must_use]
pub fn send_to(target: &Target, url: &Uri, body: &str, timeout: Duration) -> Outcome {
    let headers = [
        (header::AUTHORIZATION.as_str(), &target.authorization),
        (GATEWAY_TOKEN_HEADER, &target.gateway_token),
    ];
    match target.client.post(url, &headers, ("application/json", body), timeout) {
        Ok(response) => outcome(response),
        Err(no_answer) => Outcome::Unreachable(no_answer),
    }
}

fn outcome(mut response: Response<Body>) -> Outcome {
    let status = response.status();
    if status == StatusCode::NO_CONTENT {
        return Outcome::Accepted(status);
    }
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (location, retry_after) = (header(header::LOCATION), header(header::RETRY_AFTER));
    let location = location.map(|location| destination(&location));
    let mitigated = header(HeaderName::from_static("cf-mitigated"));
    let date = header(header::DATE).and_then(|date| httpdate::parse_http_date(&date).ok());
    let refusal = serde_json::from_slice(&http::start_of(response.body_mut())).ok();
    let response = ErrorResponse { status, location, retry_after, date, mitigated, refusal };
    if status.is_redirection() {
        Outcome::Redirected(response)
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Outcome::TryLater(response)
    } else {
        Outcome::Refused(response)
    }
}

/// The printable part of a `location`: without user and password, and without path and query, which may hold login
/// tokens.
fn destination(location: &str) -> String {
    let url = location.parse::<Uri>().ok();
    let found = url.as_ref().and_then(|url| Some((url.scheme_str()?, url.host()?, url.port_u16())));
    match found {
        Some((scheme, host, Some(port))) => format!("{scheme}://{host}:{port}"),
        Some((scheme, host, None)) => format!("{scheme}://{host}"),
        None if location.starts_with('/') && !location.starts_with("//") => {
            "a path of the same host".to_owned()
        }
        None => "something that is no full URL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kiloclaw_check_in::Refusal;

    use super::*;
    use crate::http::Cause;

    fn outcome_of(status: u16, body: &str) -> Outcome {
        let response = Response::builder().status(status).header("retry-after", "30");
        outcome(response.body(Body::builder().data(body)).unwrap())
    }

    #[test]
    fn the_status_decides_the_exit_code() {
        for (status, exit) in [
            (200, Exit::Refused),
            (202, Exit::Refused),
            (204, Exit::Done),
            (299, Exit::Refused),
            (301, Exit::Refused),
            (308, Exit::Refused),
            (400, Exit::Refused),
            (401, Exit::Refused),
            (404, Exit::Refused),
            (428, Exit::Refused),
            (429, Exit::Unavailable),
            (430, Exit::Refused),
            (500, Exit::Unavailable),
            (503, Exit::Unavailable),
            (999, Exit::Refused),
        ] {
            assert_eq!(outcome_of(status, "").exit(), exit, "{status}");
        }
    }

    #[test]
    fn parses_the_body_of_a_refusal() {
        use kiloclaw_check_in::{Field, InvalidBody};

        let refusal = Refusal::InvalidBody(InvalidBody::Field(Field::UptimeSeconds));
        let Outcome::Refused(response) = outcome_of(refusal.status(), &refusal.body().to_json())
        else {
            panic!("a 400 is a refusal");
        };
        let body = response.refusal.unwrap();
        assert_eq!(body.error, refusal.error());
        assert_eq!(body.code, refusal.code());
        assert_eq!(body.field.as_deref(), Some(Field::UptimeSeconds.name()));
        assert_eq!(body.expected.as_deref(), Some(Field::UptimeSeconds.rule()));

        let Outcome::TryLater(response) =
            outcome_of(Refusal::WriteFailed.status(), &Refusal::WriteFailed.body().to_json())
        else {
            panic!("a 503 is for later");
        };
        assert_eq!(response.retry_after.as_deref(), Some("30"));
        assert_eq!(response.refusal.unwrap().code, "write_failed");
    }

    fn response(retry_after: &str, date: Option<&str>) -> ErrorResponse {
        ErrorResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            location: None,
            retry_after: Some(retry_after.to_owned()),
            date: date.map(|date| httpdate::parse_http_date(date).unwrap()),
            mitigated: None,
            refusal: None,
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let wait = |retry_after, date| response(retry_after, date).retry_after(now);
        assert_eq!(wait("30", None), Some(Duration::from_secs(30)));
        assert_eq!(wait(" 0 ", None), Some(Duration::ZERO));
        let later = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(wait(later, None), Some(Duration::from_mins(1)));
        // The local clock may be wrong; the `Date` header shows the server's.
        let date = Some("Sun, 06 Nov 1994 08:50:27 GMT");
        assert_eq!(wait(later, date), Some(Duration::from_secs(10)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:40:00 GMT", None), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "1.5", "18446744073709551616"] {
            assert_eq!(wait(nonsense, None), None, "{nonsense}");
        }
    }

    #[test]
    fn only_scheme_and_host_of_a_location_are_kept() {
        for (location, kept) in [
            ("https://me:pw@login.example.net/pw?token=pw#pw", "https://login.example.net"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
            ("HTTPS://h", "https://h"),
            ("/login?token=pw", "a path of the same host"),
            ("//me:pw@h/pw", "something that is no full URL"),
            ("https://me:pw", "https://me"),
            ("pw", "something that is no full URL"),
            ("", "something that is no full URL"),
        ] {
            let response = Response::builder().status(302).header("location", location);
            let Outcome::Redirected(response) =
                outcome(response.body(Body::builder().data("")).unwrap())
            else {
                panic!("a 302 is a redirect");
            };
            assert_eq!(response.location.as_deref(), Some(kept), "{location}");
        }
    }

    #[test]
    fn every_failure_has_a_code() {
        let refused = outcome_of(403, &Refusal::WrongApiKey.body().to_json());
        assert_eq!(refused.code().as_deref(), Some("wrong_api_key"));
        assert_eq!(outcome_of(502, "<html>").code().as_deref(), Some("http_502"));
        assert_eq!(outcome_of(204, "").code(), None);
        let no_answer = NoAnswer { cause: Cause::Timeout, reason: String::new() };
        assert_eq!(Outcome::Unreachable(no_answer).code().as_deref(), Some("timeout"));
    }

    #[test]
    fn ignores_a_refusal_body_of_another_format() {
        for body in ["", "<html>", "[]", "{}", r#"{"error":{}}"#, r#"{"error":"Forbidden"}"#] {
            let Outcome::Refused(response) = outcome_of(403, body) else {
                panic!("a 403 is a refusal");
            };
            assert_eq!(response.refusal, None, "{body}");
        }
    }
}
