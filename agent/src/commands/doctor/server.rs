//! Interprets the server's responses. Pure: [`doctor`](super) sends the requests.

use std::time::{Duration, SystemTime};

use kiloclaw_check_in::{CHECK_IN_PATH, Credential, GatewayToken, InvalidBody, Refusal};
use ureq::http::Uri;
use ureq::http::uri::PathAndQuery;

use crate::commands::doctor::check::Verdict;
use crate::env_vars;
use crate::http::{Cause, NoAnswer};
use crate::report::explain;
use crate::report::send::{ErrorResponse, Outcome};

/// Largest accepted difference between the clocks.
const MAX_SKEW: Duration = Duration::from_mins(1);

/// Who answered the probe: a POST with credentials, an empty body and an empty `dry_run`, which no server stores.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// Kiloclaw telemetry that accepted the API key and knows the dry run.
    Telemetry,
    /// Kiloclaw telemetry of a version without the dry run that accepted the API key.
    OlderTelemetry,
    /// Kiloclaw telemetry that refused the API key.
    WrongApiKey,
    /// Kiloclaw telemetry that got no credentials, or only one: something in front of it removed them.
    MissingCredentials,
    /// Kiloclaw telemetry that lacks a secret or a binding.
    Misconfigured,
    /// A server that returned 429 or 5xx.
    Down,
    Redirects,
    /// A server that is not Kiloclaw telemetry.
    OtherServer,
    Unreachable(Cause),
}

/// Classifies the response by the contract's codes alone: any server may have texts such as `Invalid body`.
#[must_use]
pub fn classify_probe(outcome: &Outcome) -> ProbeResult {
    let response = match outcome {
        Outcome::Unreachable(NoAnswer { cause, .. }) => return ProbeResult::Unreachable(*cause),
        // Kiloclaw telemetry refuses an empty body.
        Outcome::Accepted(_) => return ProbeResult::OtherServer,
        Outcome::Redirected(_) => return ProbeResult::Redirects,
        Outcome::TryLater(response) | Outcome::Refused(response) => response,
    };
    let is = |refusal: Refusal| {
        let code = response.refusal.as_ref().map(|body| body.code.as_str());
        response.status.as_u16() == refusal.status() && code == Some(refusal.code())
    };
    let credentials = [Credential::Authorization, Credential::Bearer, Credential::GatewayToken];
    if is(Refusal::InvalidQuery) {
        ProbeResult::Telemetry
    } else if is(Refusal::InvalidBody(InvalidBody::NotJson)) {
        ProbeResult::OlderTelemetry
    } else if is(Refusal::WrongApiKey) {
        ProbeResult::WrongApiKey
    } else if credentials.into_iter().any(|which| is(Refusal::MissingCredential(which))) {
        ProbeResult::MissingCredentials
    } else if is(Refusal::Misconfigured) {
        ProbeResult::Misconfigured
    } else if matches!(outcome, Outcome::TryLater(_)) {
        ProbeResult::Down
    } else {
        ProbeResult::OtherServer
    }
}

#[must_use]
pub fn server(probe: &ProbeResult, outcome: &Outcome, url: &Uri) -> Verdict {
    let said = describe(outcome);
    let fix = || explain::hint(outcome);
    match probe {
        ProbeResult::Telemetry => Verdict::passed("Kiloclaw telemetry answers"),
        ProbeResult::OlderTelemetry => {
            Verdict::passed("Kiloclaw telemetry answers; its version has no dry run")
        }
        ProbeResult::WrongApiKey | ProbeResult::MissingCredentials => {
            Verdict::passed("Kiloclaw telemetry answers, and refuses a credential")
        }
        ProbeResult::Misconfigured => Verdict::failed(Refusal::Misconfigured.code(), said, fix()),
        ProbeResult::Redirects => Verdict::failed("redirected", said, fix()),
        ProbeResult::OtherServer => Verdict::failed(
            "not_the_endpoint",
            format!("{said}, which is not Kiloclaw telemetry's answer"),
            find_the_endpoint(outcome, url),
        ),
        ProbeResult::Unreachable(Cause::NotHttp) => {
            Verdict::failed("not_the_endpoint", said, fix())
        }
        ProbeResult::Unreachable(Cause::Timeout) => Verdict::failed(
            Cause::Timeout.code(),
            format!("it accepts the connection, but {said}"),
            format!(
                "the server or a proxy in front of it hangs: try again later, or with a longer {}",
                env_vars::TIMEOUT
            ),
        ),
        ProbeResult::Down | ProbeResult::Unreachable(_) => {
            Verdict::failed("server_down", said, fix())
        }
    }
}

/// The fix if another server answers at this URL.
fn find_the_endpoint(outcome: &Outcome, url: &Uri) -> String {
    let name = env_vars::CHECKIN_URL;
    let path = format!("the path of {name} should be {CHECK_IN_PATH}");
    let not_found = matches!(outcome, Outcome::Refused(ErrorResponse { status, .. })
        if matches!(status.as_u16(), 404 | 405));
    // `explain::hint` would repeat `path` for these.
    let hint = if not_found { String::new() } else { explain::hint(outcome) };
    match (url.path() == CHECK_IN_PATH, hint.is_empty()) {
        (true, true) => format!("check host and port in {name}: the path is right"),
        (true, false) => hint,
        (false, true) => path,
        (false, false) => format!("{hint}; {path}"),
    }
}

/// The outcome in one line, with the server's own code.
#[must_use]
pub fn describe(outcome: &Outcome) -> String {
    let response = match outcome {
        Outcome::Accepted(status) => return format!("{status}"),
        Outcome::Unreachable(no_answer) => return no_answer.reason.clone(),
        Outcome::Redirected(response)
        | Outcome::TryLater(response)
        | Outcome::Refused(response) => response,
    };
    let body = response.refusal.as_ref();
    let details = [
        ("", body.map(|body| body.code.as_str())),
        ("field ", body.and_then(|body| body.field.as_deref())),
        ("expected ", body.and_then(|body| body.expected.as_deref())),
        ("cf-mitigated ", response.mitigated.as_deref()),
        ("to ", response.location.as_deref()),
        ("retry after ", response.retry_after.as_deref()),
    ];
    details
        .into_iter()
        .filter_map(|(name, value)| Some(format!(": {name}{}", value?)))
        .fold(format!("the server answers {}", response.status), |said, detail| said + &detail)
}

/// The verdict on the API key; `None` if the probe shows nothing about it.
#[must_use]
pub fn api_key(probe: &ProbeResult, outcome: &Outcome, several: bool) -> Option<Verdict> {
    match probe {
        ProbeResult::Telemetry | ProbeResult::OlderTelemetry => Some(Verdict::passed("accepted")),
        ProbeResult::WrongApiKey => {
            let hint = explain::hint(outcome);
            Some(Verdict::failed(
                Refusal::WrongApiKey.code(),
                describe(outcome),
                if several {
                    format!(
                        "{hint}; the value contains a comma: the agent needs one key, only the server accepts a list"
                    )
                } else {
                    hint
                },
            ))
        }
        ProbeResult::MissingCredentials => {
            let code = outcome.code().unwrap_or_default();
            Some(Verdict::failed(code, describe(outcome), explain::hint(outcome)))
        }
        _ => None,
    }
}

/// The server's response to a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    Accepted,
    /// Everything is valid except the token or the id.
    WrongToken,
    Other,
}

impl DryRun {
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let wrong_token = Refusal::WrongGatewayToken.code();
        match outcome {
            Outcome::Accepted(_) => Self::Accepted,
            Outcome::Refused(ErrorResponse { refusal: Some(body), .. })
                if body.code == wrong_token =>
            {
                Self::WrongToken
            }
            _ => Self::Other,
        }
    }
}

/// The verdict on a dry run that ended as [`DryRun::Other`].
#[must_use]
pub fn body(outcome: &Outcome) -> Verdict {
    let code = match outcome {
        Outcome::TryLater(response) if response.code() != Refusal::Misconfigured.code() => {
            "server_down".to_owned()
        }
        outcome => outcome.code().unwrap_or_default(),
    };
    Verdict::failed(code, describe(outcome), explain::hint(outcome))
}

/// The fault in a token's format, without the token itself.
#[must_use]
pub fn malformed(token: &str) -> Option<String> {
    let is = |wanted: fn(char) -> bool| token.contains(wanted);
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if token.len() == GatewayToken::LEN && token.chars().all(hex) {
        return None;
    }
    let length = token.chars().count();
    let faults = [
        (length != GatewayToken::LEN, format!("{length} characters")),
        (is(|c| c.is_ascii_uppercase()), "upper case".to_owned()),
        (is(char::is_whitespace), "white space inside".to_owned()),
        (is(|c| matches!(c, '"' | '\'')), "quotation marks".to_owned()),
        (
            is(|c| !c.is_ascii_hexdigit() && !c.is_whitespace() && !matches!(c, '"' | '\'')),
            "characters other than hex digits".to_owned(),
        ),
    ];
    let faults: Vec<_> = faults.into_iter().filter(|(is, _)| *is).map(|(_, fault)| fault).collect();
    Some(format!(
        "malformed: a token is {} lower-case hex digits, this one has {}",
        GatewayToken::LEN,
        faults.join(", ")
    ))
}

/// Ids that the token may belong to if the configured id is wrong.
#[must_use]
pub fn candidates(configured: Option<&str>, others: [Option<String>; 3]) -> Vec<String> {
    let trimmed = configured.map(|id| id.trim().to_owned());
    let lower = configured.map(|id| id.trim().to_lowercase());
    let mut candidates: Vec<String> = Vec::new();
    for id in [trimmed, lower].into_iter().chain(others).flatten() {
        let valid = crate::config::check_sandbox_id(&id).is_ok();
        if valid && Some(id.as_str()) != configured && !candidates.contains(&id) {
            candidates.push(id);
        }
    }
    candidates
}

/// Puts a parameter in front of the URL's query, since the server reads the first of several values.
#[must_use]
pub fn with_query(url: &Uri, parameter: &str) -> Option<Uri> {
    let query = match url.query() {
        Some(query) if !query.is_empty() => format!("{parameter}&{query}"),
        _ => parameter.to_owned(),
    };
    let path = format!("{}?{query}", url.path());
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// The verdict on this machine's clock. `date` is the server's, `sent_at` the local time before the request, `took` the
/// request's duration.
#[must_use]
pub fn clock(date: Option<SystemTime>, sent_at: SystemTime, took: Duration) -> Verdict {
    let Some(date) = date else {
        return Verdict::skipped("the response has no valid `Date` header");
    };
    // `Date` has whole seconds: on average it is half a second behind.
    let half_a_second = Duration::from_millis(500);
    let (ours, theirs) = (sent_at + took / 2, date + half_a_second);
    let uncertain = took / 2 + half_a_second;
    let (direction, skew) = match ours.duration_since(theirs) {
        Ok(ahead) => ("ahead of", ahead),
        Err(behind) => ("behind", behind.duration()),
    };
    let figures = if skew <= uncertain {
        format!("equal to the server's within {:.1} s", uncertain.as_secs_f64())
    } else {
        let (skew, uncertain) = (skew.as_secs_f64(), uncertain.as_secs_f64());
        format!("{skew:.1} s {direction} the server's (± {uncertain:.1} s)")
    };
    if skew <= MAX_SKEW + uncertain {
        return Verdict::passed(figures);
    }
    Verdict::failed(
        "clock_skew",
        figures,
        "set it, with `timedatectl set-ntp true` or on the hypervisor; the server's clock dates check-ins, \
         but certificates and operators' tokens depend on this one",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fails_on_a_clock_skew_over_a_minute() {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        // On average, the server's clock is half a second past `Date`, and answers halfway through the request.
        let took = Duration::from_secs(1);
        for (seconds, fails) in [(0, false), (60, false), (61, false), (62, true), (3_600, true)] {
            let skew = Duration::from_secs(seconds);
            for date in [asked - skew, asked + skew] {
                assert_eq!(clock(Some(date), asked, took).is_failed(), fails, "{seconds}");
            }
        }
        let in_step = Verdict::passed("equal to the server's within 1.0 s");
        assert_eq!(clock(Some(asked), asked, took), in_step);
        assert!(matches!(clock(None, asked, took), Verdict::Skipped { .. }));
    }

    #[test]
    fn the_query_parameter_comes_first() {
        let url = |text: &str| with_query(&text.parse().unwrap(), "dry_run=1").unwrap().to_string();
        assert_eq!(url("https://h:1/a/b"), "https://h:1/a/b?dry_run=1");
        assert_eq!(url("https://h"), "https://h/?dry_run=1");
        assert_eq!(url("https://h/?"), "https://h/?dry_run=1");
        assert_eq!(url("https://h/a?b=c&d"), "https://h/a?dry_run=1&b=c&d");
    }

    #[test]
    fn candidates_are_valid_distinct_and_not_the_configured_id() {
        let text = |text: &str| Some(text.to_owned());
        let none = [None, None, None];
        assert_eq!(candidates(Some(" A\n"), none.clone()), ["A", "a"]);
        assert_eq!(candidates(Some("a"), none.clone()), [""; 0]);
        assert_eq!(candidates(None, [text("a"), text("a"), text("")]), ["a"]);
        assert_eq!(candidates(Some("b"), [text("b"), text("c"), text(&"x".repeat(97))]), ["c"]);
    }

    #[test]
    fn a_token_is_64_lower_case_hex_digits() {
        assert_eq!(malformed(&"0123456789abcdef".repeat(4)), None);
        assert!(malformed("").is_some_and(|fault| fault.ends_with("0 characters")));
        assert!(malformed(&"A".repeat(64)).is_some_and(|fault| fault.ends_with("has upper case")));
    }

    proptest! {
        #[test]
        fn a_malformed_token_is_reported_with_its_fault(token in "[0-9a-fA-Fxü \"]{0,70}") {
            let fault = malformed(&token);
            let fine = token.len() == 64 && token.chars().all(|c| "0123456789abcdef".contains(c));
            prop_assert_eq!(fault.is_none(), fine);
            prop_assert!(fault.is_none_or(|fault| !fault.ends_with("has ")));
        }

        #[test]
        fn clock_never_panics(ours in 0_u64..1 << 33, theirs in 0_u64..1 << 33, took in 0_u64..1 << 20) {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let _ = clock(Some(at(theirs)), at(ours), Duration::from_secs(took));
        }
    }
}
