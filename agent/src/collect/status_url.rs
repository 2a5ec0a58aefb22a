//! The health of the process, from the controller that supervises it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::{HeaderValue, StatusCode, Uri};

use kiloclaw_checkin::limits::MAX_STRING_BYTES;

use crate::collect::process::{Status, code_reason};
use crate::http::{self, Client, NoAnswer};

/// A controller that knows the state of the process.
#[derive(Clone, Debug)]
pub struct StatusSource {
    /// Where to ask.
    pub url: Uri,
    /// The `authorization` to ask with; `None` if there is no gateway token.
    pub authorization: Option<HeaderValue>,
}

/// Why the state is not known, worded to follow the URL.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no token to ask with.
    #[error("is not asked without a gateway token")]
    NoToken,
    /// No answer.
    #[error("did not answer: {0}")]
    NoAnswer(#[from] NoAnswer),
    /// An answer other than 200.
    #[error("answered {0}")]
    Refused(StatusCode),
    /// An answer that is not of the form that [`parse`] takes.
    #[error("answered something else than a status: {0}")]
    Parse(#[from] serde_json::Error),
    /// A value that the contract of check-ins does not take.
    #[error("answered with an invalid {0}")]
    Invalid(&'static str),
}

/// The answer, as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    state: String,
    /// Not worth an error, whatever it is.
    #[serde(default)]
    pid: Value,
    uptime: f64,
    restarts: u64,
    last_exit: Option<LastExit>,
}

#[derive(Deserialize)]
struct LastExit {
    code: Option<i64>,
    signal: Option<String>,
}

impl LastExit {
    fn reason(&self) -> String {
        match (&self.signal, self.code) {
            (Some(signal), _) => format!("signal:{signal}"),
            (None, Some(code)) => code_reason(code),
            (None, None) => String::new(),
        }
    }
}

/// Asks for the state, for `timeout` and the client's own at most.
pub fn ask(
    source: &StatusSource,
    client: &Client,
    timeout: Duration,
) -> Result<Status, StatusError> {
    let authorization = source.authorization.clone().ok_or(StatusError::NoToken)?;
    let mut response =
        client.get(&source.url, authorization, timeout).map_err(StatusError::NoAnswer)?;
    if response.status() == StatusCode::OK {
        parse(&http::start_of(response.body_mut()))
    } else {
        Err(StatusError::Refused(response.status()))
    }
}

/// Reads `{"state", "pid", "uptime", "restarts", "lastExit": {"code", "signal", "at"} | null}`;
/// `uptime` is in seconds.
pub fn parse(answer: &[u8]) -> Result<Status, StatusError> {
    let answer: Answer = serde_json::from_slice(answer)?;
    if answer.state.is_empty() || answer.state.len() > MAX_STRING_BYTES {
        return Err(StatusError::Invalid("state"));
    }
    // JSON has no NaN, and serde_json no infinity.
    if answer.uptime < 0.0 {
        return Err(StatusError::Invalid("uptime"));
    }
    let last_exit_reason = answer.last_exit.as_ref().map(LastExit::reason).unwrap_or_default();
    if last_exit_reason.len() > MAX_STRING_BYTES {
        return Err(StatusError::Invalid("lastExit"));
    }
    Ok(Status {
        state: answer.state,
        pid: answer.pid.as_u64().and_then(|pid| pid.try_into().ok()),
        restarts: answer.restarts,
        uptime_seconds: answer.uptime,
        last_exit_reason: Some(last_exit_reason),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn last_exit_reason(last_exit: &str) -> String {
        let answer = format!(
            r#"{{"state":"running","pid":1,"uptime":0,"restarts":0,"lastExit":{last_exit}}}"#
        );
        parse(answer.as_bytes()).unwrap().last_exit_reason.unwrap()
    }

    #[test]
    fn reads_a_running_process() {
        let answer = br#"{"state":"running","pid":42,"uptime":12.5,"restarts":3,
            "lastExit":{"code":null,"signal":"SIGKILL","at":"2026-01-01T00:00:00.000Z"}}"#;
        let expected = Status {
            state: "running".to_owned(),
            pid: Some(42),
            restarts: 3,
            uptime_seconds: 12.5,
            last_exit_reason: Some("signal:SIGKILL".to_owned()),
        };
        assert_eq!(parse(answer).unwrap(), expected);
    }

    #[test]
    fn names_the_last_exit_by_signal_then_by_code() {
        assert_eq!(last_exit_reason(r#"{"code":1,"signal":"SIGTERM","at":""}"#), "signal:SIGTERM");
        assert_eq!(last_exit_reason(r#"{"code":0,"signal":null,"at":""}"#), "code:0");
        assert_eq!(last_exit_reason(r#"{"code":-1}"#), "code:-1");
        assert_eq!(last_exit_reason(r#"{"code":null,"signal":null}"#), "");
        assert_eq!(last_exit_reason("null"), "");
    }

    #[test]
    fn a_pid_that_is_none_costs_nothing() {
        for pid in ["null", "-1", "1.5", "\"1\"", "4294967296", "{}"] {
            let answer = format!(
                r#"{{"state":"stopped","pid":{pid},"uptime":0,"restarts":0,"lastExit":null}}"#
            );
            assert_eq!(parse(answer.as_bytes()).unwrap().pid, None, "{pid}");
        }
        let answer = br#"{"state":"stopped","uptime":0,"restarts":0,"lastExit":null}"#;
        assert_eq!(parse(answer).unwrap().pid, None);
    }

    #[test]
    fn what_the_contract_would_refuse_is_an_error() {
        for answer in [
            "",
            "[]",
            "{}",
            r#"{"state":"","uptime":0,"restarts":0,"lastExit":null}"#,
            r#"{"state":"running","uptime":-1,"restarts":0,"lastExit":null}"#,
            r#"{"state":"running","uptime":1e999,"restarts":0,"lastExit":null}"#,
            r#"{"state":"running","uptime":0,"restarts":-1,"lastExit":null}"#,
            r#"{"state":"running","uptime":0,"restarts":1.5,"lastExit":null}"#,
        ] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer}");
        }
        let long = "S".repeat(MAX_STRING_BYTES);
        for answer in [
            format!(r#"{{"state":"{long}S","uptime":0,"restarts":0,"lastExit":null}}"#),
            format!(r#"{{"state":"a","uptime":0,"restarts":0,"lastExit":{{"signal":"{long}"}}}}"#),
        ] {
            assert!(matches!(parse(answer.as_bytes()), Err(StatusError::Invalid(_))));
        }
    }

    proptest! {
        #[test]
        fn never_panics(answer: Vec<u8>) {
            let _ = parse(&answer);
        }
    }
}
