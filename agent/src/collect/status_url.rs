//! The process's health as its controller reports it.

use std::time::Duration;

use serde_json::{Map, Value};
use ureq::http::{HeaderValue, StatusCode, Uri};

use crate::collect::process::{ProcessStatus, code_reason};
use crate::http::{self, Client, NoAnswer};
use crate::secret::Redactor;

/// The values of `supervisorState` that clients send.
const CONTRACT_STATES: [&str; 6] =
    ["stopped", "starting", "running", "stopping", "crashed", "shutting_down"];

/// Longest state or signal that is passed on, in bytes; a gateway token is twice as long.
const MAX_WORD_BYTES: usize = 32;

/// A controller that reports the state of the process.
#[derive(Clone, Debug)]
pub struct StatusSource {
    pub url: Uri,
    /// The `authorization` header; `None` without a gateway token.
    pub authorization: Option<HeaderValue>,
    /// Rejects values with secrets, which the controller may echo.
    pub redactor: Redactor,
}

/// Why the state is unknown, worded to follow the URL.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no gateway token.
    #[error("needs a gateway token")]
    NoToken,
    /// No response.
    #[error("did not answer: {0}")]
    NoAnswer(#[from] NoAnswer),
    /// A status other than 200.
    #[error("answered {0}")]
    Refused(StatusCode),
    /// A body that [`parse`] does not accept.
    #[error("did not answer with a status: {0}")]
    Parse(#[from] serde_json::Error),
}

/// The valid part of a response.
#[derive(Debug, PartialEq)]
pub struct StatusResponse {
    /// The state of the process; unknown values are `unknown`, 0 or `None`.
    pub status: ProcessStatus,
    /// Number of restarts, if known: 0 would mean that the supervisor has started over.
    pub restarts: Option<u64>,
    /// Members that are missing or invalid.
    pub invalid: Vec<&'static str>,
}

/// Reads the state, within `timeout` and the client's own.
pub fn ask(
    source: &StatusSource,
    client: &Client,
    timeout: Duration,
) -> Result<StatusResponse, StatusError> {
    let authorization = source.authorization.clone().ok_or(StatusError::NoToken)?;
    let mut response =
        client.get(&source.url, authorization, timeout).map_err(StatusError::NoAnswer)?;
    if response.status() == StatusCode::OK {
        parse(&http::start_of(response.body_mut()), &source.redactor)
    } else {
        Err(StatusError::Refused(response.status()))
    }
}

/// Parses `{"state", "pid", "uptime", "restarts", "lastExit": {"code", "signal", "at"} | null}`;
/// `uptime` is in seconds.
///
/// A missing or invalid member does not affect the others. The values go into check-ins, to systemd and to a terminal.
/// So words are short and plain, and contain no secret that the controller may echo.
pub fn parse(answer: &[u8], redactor: &Redactor) -> Result<StatusResponse, StatusError> {
    let answer: Map<String, Value> = serde_json::from_slice(answer)?;
    let member = |name| answer.get(name).unwrap_or(&Value::Null);
    let mut invalid = Vec::new();
    let mut valid = |name, valid: bool| {
        if !valid {
            invalid.push(name);
        }
    };

    let state = word(member("state"), redactor);
    valid("state", state.is_some());
    // It may be negative after the clock was set back.
    let uptime = member("uptime").as_f64().map(|uptime| uptime.max(0.0));
    valid("uptime", uptime.is_some());
    let restarts = whole(member("restarts")).and_then(|restarts| restarts.try_into().ok());
    valid("restarts", restarts.is_some());
    let last_exit_reason = last_exit_reason(member("lastExit"), redactor);
    valid("lastExit", last_exit_reason.is_some());
    let status = ProcessStatus {
        state: state.unwrap_or("unknown").to_owned(),
        // No check-in has it, so an invalid one needs no warning.
        pid: whole(member("pid")).and_then(|pid| pid.try_into().ok()),
        restarts: restarts.unwrap_or_default(),
        uptime_seconds: uptime.unwrap_or_default(),
        last_exit_reason,
    };
    Ok(StatusResponse { status, restarts, invalid })
}

/// `signal:<NAME>`, `code:<N>`, or empty without an exit.
fn last_exit_reason(last_exit: &Value, redactor: &Redactor) -> Option<String> {
    let member = |name| last_exit.get(name).unwrap_or(&Value::Null);
    match (last_exit, member("signal"), member("code")) {
        (Value::Null, ..) | (Value::Object(_), Value::Null, Value::Null) => Some(String::new()),
        (Value::Object(_), signal, code) => match (word(signal, redactor), whole(code)) {
            (Some(signal), _) => Some(format!("signal:{signal}")),
            (None, code) => code.map(code_reason),
        },
        _ => None,
    }
}

/// A name such as `shutting_down` or `SIGRTMIN+1`.
fn word<'a>(value: &'a Value, redactor: &Redactor) -> Option<&'a str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
    value.as_str().filter(|word| {
        (1..=MAX_WORD_BYTES).contains(&word.len())
            && word.chars().all(plain)
            && (CONTRACT_STATES.contains(word) || redactor.clean(word) == **word)
    })
}

/// A whole number; `3.0` counts as one.
fn whole(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
    let of_float = |float: f64| {
        (float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0).then_some(float as i64)
    };
    value.as_i64().or_else(|| value.as_f64().and_then(of_float))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn parsed(answer: &str) -> StatusResponse {
        parse(answer.as_bytes(), &Redactor::default()).unwrap()
    }

    fn last_exit_reason(last_exit: &str) -> Option<String> {
        parsed(&format!(r#"{{"state":"running","lastExit":{last_exit}}}"#)).status.last_exit_reason
    }

    #[test]
    fn reads_a_running_process() {
        let answer = r#"{"state":"running","pid":42,"uptime":12.5,"restarts":3,
            "lastExit":{"code":null,"signal":"SIGKILL","at":"2026-01-01T00:00:00.000Z"}}"#;
        let status = ProcessStatus {
            state: "running".to_owned(),
            pid: Some(42),
            restarts: 3,
            uptime_seconds: 12.5,
            last_exit_reason: Some("signal:SIGKILL".to_owned()),
        };
        let expected = StatusResponse { status, restarts: Some(3), invalid: Vec::new() };
        assert_eq!(parsed(answer), expected);
        let floats = answer.replace("42", "42.0").replace(":3,", ":3.0,");
        assert_eq!(parsed(&floats), expected);
    }

    #[test]
    fn names_the_last_exit_by_signal_then_by_code() {
        let text = |text: &str| Some(text.to_owned());
        for (last_exit, reason) in [
            (r#"{"code":1,"signal":"SIGTERM","at":""}"#, text("signal:SIGTERM")),
            (r#"{"code":0,"signal":null,"at":""}"#, text("code:0")),
            (r#"{"code":-1}"#, text("code:-1")),
            (r#"{"code":2.0,"signal":7}"#, text("code:2")),
            (r#"{"code":null,"signal":null}"#, text("")),
            ("null", text("")),
            (r#"{"code":"one"}"#, None),
            (r#"{"signal":"SIG\nKILL"}"#, None),
            ("1", None),
        ] {
            assert_eq!(last_exit_reason(last_exit), reason, "{last_exit}");
        }
    }

    #[test]
    fn an_invalid_pid_is_ignored() {
        for pid in ["null", "-1", "1.5", "\"1\"", "4294967296", "{}"] {
            let answer = format!(r#"{{"state":"stopped","pid":{pid},"uptime":0,"restarts":0}}"#);
            let StatusResponse { status, invalid, .. } = parsed(&answer);
            assert_eq!((status.pid, invalid), (None, Vec::new()), "{pid}");
        }
    }

    #[test]
    fn an_invalid_member_does_not_affect_the_others() {
        let good = [
            ("state", r#""crashed""#),
            ("uptime", "7"),
            ("restarts", "3"),
            ("lastExit", r#"{"code":1}"#),
        ];
        for (name, bad) in [
            ("state", "null"),
            ("state", "\"\""),
            ("state", "7"),
            ("uptime", "null"),
            ("uptime", "\"7\""),
            ("restarts", "null"),
            ("restarts", "-1"),
            ("restarts", "1.5"),
            ("restarts", "1e300"),
            ("lastExit", "true"),
        ] {
            let members = good.map(|(member, value)| {
                format!("\"{member}\":{}", if member == name { bad } else { value })
            });
            let StatusResponse { status, restarts, invalid } =
                parsed(&format!("{{{}}}", members.join(",")));
            assert_eq!(invalid, [name], "{bad}");
            assert_eq!(status.state, if name == "state" { "unknown" } else { "crashed" });
            let uptime = if name == "uptime" { 0.0 } else { 7.0 };
            assert!((status.uptime_seconds - uptime).abs() < f64::EPSILON);
            assert_eq!(restarts, (name != "restarts").then_some(3));
            let reason = (name != "lastExit").then(|| "code:1".to_owned());
            assert_eq!(status.last_exit_reason, reason);
        }
        let StatusResponse { status, invalid, .. } =
            parsed(r#"{"state":"running","uptime":-1,"restarts":0}"#);
        assert!(status.uptime_seconds.abs() < f64::EPSILON && invalid.is_empty(), "{invalid:?}");
    }

    #[test]
    fn a_response_that_is_no_object_is_an_error() {
        for answer in ["", "[]", "7", "<html>", "{"] {
            let error = parse(answer.as_bytes(), &Redactor::default()).unwrap_err();
            assert!(matches!(error, StatusError::Parse(_)), "{answer}");
        }
    }

    #[test]
    fn a_state_is_a_plain_word_without_credentials() {
        let redactor = Redactor::new(["hunter2", "run"].map(Secret::new));
        let state = |text: &str| {
            let answer = serde_json::json!({ "state": text }).to_string();
            parse(answer.as_bytes(), &redactor).unwrap().status.state
        };
        for text in ["running", "shutting_down", "Paused", "back-off"] {
            assert_eq!(state(text), text);
        }
        for text in [
            "running\nWATCHDOG=trigger",
            "\u{1b}[31mrunning",
            "Bearer hunter2",
            "hunter2",
            "x-hunter2",
            "r\u{fc}n",
            &"s".repeat(MAX_WORD_BYTES + 1),
        ] {
            assert_eq!(state(text), "unknown", "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(answer: Vec<u8>) {
            let _ = parse(&answer, &Redactor::default());
        }

        #[test]
        fn a_parsed_status_satisfies_the_contract(
            state: String,
            number in "-?[0-9]{1,30}([.][0-9]{1,3})?(e[0-9]{1,3})?|null|true",
            signal: String,
        ) {
            let texts = [state, signal].map(|text| serde_json::to_string(&text).unwrap());
            let [state, signal] = texts;
            let answer = format!(
                r#"{{"state":{state},"pid":{number},"uptime":{number},"restarts":{number},
                    "lastExit":{{"signal":{signal},"code":{number}}}}}"#
            );
            if let Ok(StatusResponse { status, .. }) = parse(answer.as_bytes(), &Redactor::default()) {
                prop_assert!(status.uptime_seconds.is_finite() && status.uptime_seconds >= 0.0);
                let reason = status.last_exit_reason.unwrap_or_default();
                for text in [status.state, reason] {
                    prop_assert!(text.len() <= 64 && !text.contains(char::is_control));
                    prop_assert!(text.is_ascii());
                }
            }
        }
    }
}
