//! Posting a check-in, and what can come of it.

use kiloclaw_checkin::GATEWAY_TOKEN_HEADER;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use crate::config::Target;
use crate::exit::Exit;
use crate::http::{self, Client};

/// What came of a check-in.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx: it was taken, and the baseline advances.
    Accepted(StatusCode),
    /// 3xx, which is not followed: credentials go to the URL that they were meant for.
    Redirected(Answer),
    /// 429 or 5xx: not now.
    TryLater(Answer),
    /// Any other answer: not like this.
    Refused(Answer),
    /// No answer, for this reason.
    Unreachable(String),
}

/// An answer that is no acceptance.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Where a redirect would have led to.
    pub location: Option<String>,
    /// After how many seconds, or when, to try again.
    pub retry_after: Option<String>,
    /// What the body says, if it is of the contract's form.
    pub refusal: Option<RefusalBody>,
}

/// The JSON body of a refusal, from any version of the server.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct RefusalBody {
    /// The text for people.
    pub error: String,
    /// The reason for programs.
    pub code: Option<String>,
    /// The field of the check-in that broke its rule.
    pub field: Option<String>,
    /// That rule.
    pub expected: Option<String>,
}

impl Outcome {
    /// The exit code that tells it to scripts.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Accepted(_) => Exit::Done,
            Self::TryLater(_) | Self::Unreachable(_) => Exit::Unavailable,
            Self::Redirected(_) | Self::Refused(_) => Exit::Refused,
        }
    }
}

/// Posts a check-in's body, once.
#[must_use]
pub fn send(client: &Client, target: &Target, body: &str) -> Outcome {
    let headers = [
        (header::AUTHORIZATION.as_str(), &target.authorization),
        (GATEWAY_TOKEN_HEADER, &target.gateway_token),
    ];
    match client.post(&target.url, &headers, body) {
        Ok(response) => outcome(response),
        Err(reason) => Outcome::Unreachable(reason),
    }
}

fn outcome(mut response: Response<Body>) -> Outcome {
    let status = response.status();
    if status.is_success() {
        return Outcome::Accepted(status);
    }
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (location, retry_after) = (header(header::LOCATION), header(header::RETRY_AFTER));
    let refusal = serde_json::from_slice(&http::start_of(response.body_mut())).ok();
    let answer = Answer { status, location, retry_after, refusal };
    if status.is_redirection() {
        Outcome::Redirected(answer)
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Outcome::TryLater(answer)
    } else {
        Outcome::Refused(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(status: u16, body: &str) -> Outcome {
        let response = Response::builder().status(status).header("retry-after", "30");
        outcome(response.body(Body::builder().data(body)).unwrap())
    }

    #[test]
    fn the_status_decides() {
        for (status, exit) in [
            (200, Exit::Done),
            (204, Exit::Done),
            (299, Exit::Done),
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
    fn the_body_of_every_refusal_of_the_contract_is_understood() {
        use kiloclaw_checkin::{Field, InvalidBody, Refusal};

        let refusal = Refusal::InvalidBody(InvalidBody::Field(Field::UptimeSeconds));
        let Outcome::Refused(answer) = outcome_of(refusal.status(), &refusal.body()) else {
            panic!("a 400 is a refusal");
        };
        let body = answer.refusal.unwrap();
        assert_eq!(body.error, refusal.error());
        assert_eq!(body.code.as_deref(), Some(refusal.code()));
        assert_eq!(body.field.as_deref(), Some(Field::UptimeSeconds.name()));
        assert_eq!(body.expected.as_deref(), Some(Field::UptimeSeconds.rule()));

        let Outcome::TryLater(answer) =
            outcome_of(Refusal::WriteFailed.status(), &Refusal::WriteFailed.body())
        else {
            panic!("a 503 is for later");
        };
        assert_eq!(answer.retry_after.as_deref(), Some("30"));
        assert_eq!(answer.refusal.unwrap().code.as_deref(), Some("write_failed"));
    }

    #[test]
    fn a_body_of_another_form_is_no_reason() {
        for body in ["", "<html>", "[]", "{}", r#"{"error":{}}"#] {
            let Outcome::Refused(answer) = outcome_of(403, body) else {
                panic!("a 403 is a refusal");
            };
            assert_eq!(answer.refusal, None, "{body}");
        }
    }
}
