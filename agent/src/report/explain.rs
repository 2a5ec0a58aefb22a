//! Describes a check-in or an absence for people: the request, the response, and a hint.

use std::fmt::Write;

use kiloclaw_check_in::absence::ABSENCE_PATH;
use kiloclaw_check_in::{CHECK_IN_PATH, Credential, Field, InvalidBody, Refusal};
use ureq::http::Uri;

use crate::env_vars;
use crate::http::{Cause, NoAnswer, TlsFault};
use crate::report::send::{ErrorResponse, Outcome};
use crate::secret::Redactor;

// Codes of the contract with their own hints.
const MISSING_AUTHORIZATION: &str = Refusal::MissingCredential(Credential::Authorization).code();
const NOT_A_BEARER_TOKEN: &str = Refusal::MissingCredential(Credential::Bearer).code();
const MISSING_GATEWAY_TOKEN: &str = Refusal::MissingCredential(Credential::GatewayToken).code();
const MISCONFIGURED: &str = Refusal::Misconfigured.code();
const WRONG_API_KEY: &str = Refusal::WrongApiKey.code();
const WRONG_GATEWAY_TOKEN: &str = Refusal::WrongGatewayToken.code();
const REVOKED: &str = Refusal::Revoked.code();
const RATE_LIMITED: &str = Refusal::RateLimited.code();
const WRITE_FAILED: &str = Refusal::WriteFailed.code();
const INVALID_QUERY: &str = Refusal::InvalidQuery.code();
/// All fields share this code.
const INVALID_FIELD: &str = Refusal::InvalidBody(InvalidBody::Field(Field::SandboxId)).code();

/// The hint for a server version without the route for absences.
const NO_ABSENCES: &str = "the server does not know planned absences: deploy a newer version";

/// Sent a response without the contract's JSON and code.
const IN_FRONT: &str = "something in front of the server, or another one";

/// The request's URL and body. The headers have the credentials, so they are left out.
#[must_use]
pub fn request(url: &Uri, body: &str) -> String {
    format!("POST {url}\n{body}")
}

/// The outcome of a check-in, in several lines. `redactor` cleans the server's text.
#[must_use]
pub fn outcome(outcome: &Outcome, redactor: &Redactor) -> String {
    report(outcome, &hint(outcome), is_in_front, redactor)
}

/// Like [`outcome`], for an absence.
#[must_use]
pub fn absence(outcome: &Outcome, redactor: &Redactor) -> String {
    let in_front = |response: &ErrorResponse| is_in_front(response) && !is_of_operators(response);
    report(outcome, &absence_hint(outcome), in_front, redactor)
}

fn report(
    outcome: &Outcome,
    hint: &str,
    is_in_front: impl Fn(&ErrorResponse) -> bool,
    redactor: &Redactor,
) -> String {
    let response = match outcome {
        Outcome::Accepted(status) => return format!("{status}: accepted"),
        Outcome::Unreachable(no_answer) => {
            let reason = redactor.clean(&no_answer.reason);
            return format!("unreachable: {reason}\n  hint:         {hint}");
        }
        Outcome::Redirected(response)
        | Outcome::TryLater(response)
        | Outcome::Refused(response) => response,
    };
    let body = response.refusal.as_ref();
    let lines = [
        ("answered by", is_in_front(response).then_some(IN_FRONT)),
        ("cf-mitigated", response.mitigated.as_deref()),
        ("location", response.location.as_deref()),
        ("error", body.map(|body| body.error.as_str())),
        ("code", body.map(|body| body.code.as_str())),
        ("field", body.and_then(|body| body.field.as_deref())),
        ("expected", body.and_then(|body| body.expected.as_deref())),
        ("retry after", response.retry_after.as_deref()),
        ("hint", Some(hint)),
    ];
    let mut report = format!("{}: {}", response.status, headline(outcome));
    for (name, value) in lines {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(report, "\n  {:<13} {}", format!("{name}:"), redactor.clean(value));
        }
    }
    report
}

/// The outcome in one line. `redactor` cleans the server's text.
#[must_use]
pub fn summary(outcome: &Outcome, redactor: &Redactor) -> String {
    match outcome {
        Outcome::Accepted(status) => format!("{status}: accepted"),
        Outcome::Unreachable(no_answer) => {
            format!("unreachable: {}", redactor.clean(&no_answer.reason))
        }
        Outcome::Redirected(response)
        | Outcome::TryLater(response)
        | Outcome::Refused(response) => {
            let body = response.refusal.as_ref();
            let details = [
                ("", body.map(|body| body.code.as_str())),
                ("", body.and_then(|body| body.field.as_deref())),
                ("", body.and_then(|body| body.expected.as_deref())),
                ("by ", is_in_front(response).then_some(IN_FRONT)),
                ("cf-mitigated ", response.mitigated.as_deref()),
                ("to ", response.location.as_deref()),
            ];
            let mut summary = format!("{}: {}", response.status, headline(outcome));
            for (name, detail) in details {
                if let Some(detail) = detail {
                    let _ = write!(summary, ": {name}{}", redactor.clean(detail));
                }
            }
            summary
        }
    }
}

/// Whether something in front of the server sent the response: it has no code, or it is a 401 or 403 whose code is not
/// one of the contract's.
fn is_in_front(response: &ErrorResponse) -> bool {
    let known = [
        MISSING_AUTHORIZATION,
        NOT_A_BEARER_TOKEN,
        MISSING_GATEWAY_TOKEN,
        WRONG_API_KEY,
        WRONG_GATEWAY_TOKEN,
        REVOKED,
    ];
    let of_credentials = matches!(response.status.as_u16(), 401 | 403);
    let known = |code: &str| !of_credentials || known.contains(&code);
    !response.refusal.as_ref().is_some_and(|body| known(&body.code))
}

/// Whether the operators' API refused the request. It handles all paths below `/api` except the machines' endpoints.
fn is_of_operators(response: &ErrorResponse) -> bool {
    let code = response.refusal.as_ref().map(|body| body.code.as_str());
    matches!(code, Some("missing_token" | "invalid_token" | "expired_token"))
}

fn headline(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted(_) => "accepted",
        Outcome::Redirected(_) => "redirected, and not followed",
        Outcome::TryLater(_) => "not accepted for the moment",
        Outcome::Refused(_) => "refused",
        Outcome::Unreachable(_) => "unreachable",
    }
}

/// What to check or to do.
#[must_use]
pub fn hint(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(_) => String::new(),
        // ureq has the proxy's status only in its text.
        Outcome::Unreachable(NoAnswer { cause: Cause::Proxy, reason })
            if reason.contains("407") =>
        {
            format!(
                "check {}: the proxy requires a user and a password, or other ones \
                 (http://USER:PASSWORD@HOST:PORT)",
                env_vars::HTTPS_PROXY
            )
        }
        Outcome::Unreachable(no_answer) => hint_on_the_way(no_answer.cause),
        Outcome::Redirected(response)
        | Outcome::TryLater(response)
        | Outcome::Refused(response) => hint_of_the_server(response),
    }
}

/// Like [`hint`], for an absence.
fn absence_hint(outcome: &Outcome) -> String {
    let (Outcome::TryLater(response) | Outcome::Refused(response)) = outcome else {
        return hint(outcome);
    };
    let code = response.refusal.as_ref().map(|body| body.code.as_str()).unwrap_or_default();
    match (code, response.status.as_u16()) {
        (WRITE_FAILED, _) => "try again later: the absence is not announced".to_owned(),
        (RATE_LIMITED, _) => "try again in a minute".to_owned(),
        (MISCONFIGURED, _) => {
            "the server lacks a secret or a binding, or is of a version without planned absences; \
             its log says which"
                .to_owned()
        }
        (_, 404 | 405) => NO_ABSENCES.to_owned(),
        _ if is_of_operators(response) => NO_ABSENCES.to_owned(),
        _ if response.mitigated.is_some() => format!(
            "Cloudflare blocks the agent as a bot: exempt POST {ABSENCE_PATH} from challenges and rules"
        ),
        _ => hint(outcome),
    }
}

fn hint_on_the_way(cause: Cause) -> String {
    use env_vars::{CHECKIN_URL, HTTPS_PROXY};

    match cause {
        Cause::CannotResolve => {
            format!("check the host in {CHECKIN_URL}, and this machine's DNS (/etc/resolv.conf)")
        }
        Cause::ConnectionRefused => {
            format!("check host and port in {CHECKIN_URL}: nothing listens there")
        }
        Cause::Tls(fault) => hint_on_tls(fault),
        Cause::Timeout => format!(
            "check this machine's network and firewall, and {HTTPS_PROXY} if it needs a proxy"
        ),
        Cause::Proxy => format!("check {HTTPS_PROXY}, and that the proxy allows this host"),
        Cause::NotHttp => {
            format!("check {CHECKIN_URL}: the port, and whether it should begin with https")
        }
        Cause::Closed => {
            format!("try again later; if this lasts, check host and port in {CHECKIN_URL}")
        }
        Cause::Network => format!("check {CHECKIN_URL} and this machine's network"),
    }
}

fn hint_on_tls(fault: TlsFault) -> String {
    use env_vars::{CA_FILE, CHECKIN_URL};

    match fault {
        TlsFault::Untrusted => format!(
            "set {CA_FILE} if a private authority issued the certificate; otherwise a proxy may be \
             intercepting TLS"
        ),
        TlsFault::Expired => {
            "check this machine's clock (`date`); if it is right, renew the certificate".to_owned()
        }
        TlsFault::OtherHost => {
            format!("check the host in {CHECKIN_URL}, or give the server a certificate for it")
        }
        TlsFault::NotTls => format!("check host and port in {CHECKIN_URL}: https may be wrong"),
        TlsFault::Closed | TlsFault::Other => format!(
            "check host and port in {CHECKIN_URL}, this machine's clock, and {CA_FILE} if a \
             private authority issued the server's certificate"
        ),
    }
}

/// The hint for the response's code or, without one, for its status.
fn hint_of_the_server(response: &ErrorResponse) -> String {
    use env_vars::{API_KEY, CHECKIN_URL, GATEWAY_TOKEN, SANDBOX_ID};

    let code = response.refusal.as_ref().map(|body| body.code.as_str()).unwrap_or_default();
    match (code, response.status.as_u16()) {
        (WRONG_API_KEY, _) => format!("check {API_KEY}: the server does not accept this key"),
        (WRONG_GATEWAY_TOKEN, _) => format!(
            "check {GATEWAY_TOKEN} and {SANDBOX_ID}: the token is not this sandbox's; \
             `kiloclaw-agent gateway-token` prints the right one"
        ),
        (MISSING_AUTHORIZATION | NOT_A_BEARER_TOKEN | MISSING_GATEWAY_TOKEN, _) => {
            format!("the agent sent both credentials: check {CHECKIN_URL}, and proxies in front of the server")
        }
        (INVALID_FIELD, _) => {
            "check the setting of this field; the server may have another version".to_owned()
        }
        (INVALID_QUERY, _) => {
            format!("remove the query from {CHECKIN_URL}")
        }
        (REVOKED, _) => {
            "the server's operators have revoked this sandbox; it refuses all its check-ins".to_owned()
        }
        (RATE_LIMITED, _) => {
            "this sandbox checks in too often: check --interval, and whether two machines have this id"
                .to_owned()
        }
        (MISCONFIGURED, _) => {
            "the server lacks a secret or a binding; its log says which".to_owned()
        }
        (WRITE_FAILED, _) => "nothing is lost: the next check-in includes these counters".to_owned(),
        (_, 200..=399) => format!(
            "check host and path in {CHECKIN_URL}, and proxies in front of the server: a login page or portal must \
             let check-ins pass, and the keys must not reach another server"
        ),
        _ if response.mitigated.is_some() => format!(
            "Cloudflare blocks the agent as a bot: exempt POST {CHECK_IN_PATH} from challenges and rules"
        ),
        (_, 401 | 403) => format!(
            "check host and path in {CHECKIN_URL}, and what is in front of the server: a firewall, login or \
             proxy must let check-ins pass"
        ),
        (_, 404 | 405) => format!("check {CHECKIN_URL}: its path should be {CHECK_IN_PATH}"),
        (_, 429 | 500..=599) => "try again later".to_owned(),
        _ => format!("check that {CHECKIN_URL} is the URL of Kiloclaw telemetry"),
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::StatusCode;

    use super::*;
    use crate::report::send::RefusalBody;
    use crate::secret::Secret;

    fn response(status: StatusCode) -> ErrorResponse {
        ErrorResponse {
            status,
            location: None,
            retry_after: None,
            date: None,
            mitigated: None,
            refusal: None,
        }
    }

    fn refusal(refusal: Refusal) -> ErrorResponse {
        ErrorResponse {
            refusal: serde_json::from_str(&refusal.body().to_json()).unwrap(),
            ..response(StatusCode::from_u16(refusal.status()).unwrap())
        }
    }

    #[test]
    fn a_refusal_is_explained_with_its_reason_and_a_hint() {
        let response = refusal(Refusal::InvalidBody(InvalidBody::Field(Field::MachineId)));
        assert_eq!(
            outcome(&Outcome::Refused(response), &Redactor::default()),
            "\
400 Bad Request: refused
  error:        Invalid body
  code:         invalid_field
  field:        machineId
  expected:     a string of at most 1024 bytes, without control characters or lone surrogates, or left out
  hint:         check the setting of this field; the server may have another version"
        );
    }

    #[test]
    fn hints_distinguish_the_two_wrong_credentials() {
        assert!(hint_of_the_server(&refusal(Refusal::WrongApiKey)).contains(env_vars::API_KEY));
        assert!(
            !hint_of_the_server(&refusal(Refusal::WrongApiKey)).contains(env_vars::GATEWAY_TOKEN)
        );
        assert!(
            hint_of_the_server(&refusal(Refusal::WrongGatewayToken))
                .contains(env_vars::GATEWAY_TOKEN)
        );
        assert!(
            !hint_of_the_server(&refusal(Refusal::WrongGatewayToken)).contains(env_vars::API_KEY)
        );
    }

    #[test]
    fn responses_of_a_proxy_or_portal_get_no_hint_about_keys() {
        for status in [200, 202, 301, 302, 401, 403] {
            let hint = hint_of_the_server(&response(StatusCode::from_u16(status).unwrap()));
            assert!(hint.contains(env_vars::CHECKIN_URL), "{status}: {hint}");
            for key in [env_vars::API_KEY, env_vars::GATEWAY_TOKEN] {
                assert!(!hint.contains(key), "{status}: {hint}");
            }
        }
        // A code outside the contract does not come from the server.
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let body = r#"{"error":"Forbidden","code":"waf_blocked"}"#;
            let blocked =
                ErrorResponse { refusal: serde_json::from_str(body).unwrap(), ..response(status) };
            assert_eq!(hint_of_the_server(&blocked), hint_of_the_server(&response(status)));
            let text = outcome(&Outcome::Refused(blocked), &Redactor::default());
            assert!(text.contains(&format!("answered by:  {IN_FRONT}")), "{text}");
        }
        let challenge = ErrorResponse {
            mitigated: Some("challenge".to_owned()),
            ..response(StatusCode::FORBIDDEN)
        };
        assert!(hint_of_the_server(&challenge).contains("Cloudflare"));
        let text = summary(&Outcome::Refused(challenge), &Redactor::default());
        assert_eq!(
            text,
            "403 Forbidden: refused: by something in front of the server, or another one: \
             cf-mitigated challenge"
        );
    }

    #[test]
    fn a_server_without_codes_gets_a_hint_by_its_status() {
        assert!(hint_of_the_server(&response(StatusCode::NOT_FOUND)).contains(CHECK_IN_PATH));
        assert!(hint_of_the_server(&response(StatusCode::BAD_GATEWAY)).contains("later"));
        assert!(hint_of_the_server(&response(StatusCode::FOUND)).contains(env_vars::CHECKIN_URL));
        assert!(
            hint_of_the_server(&response(StatusCode::IM_A_TEAPOT)).contains(env_vars::CHECKIN_URL)
        );
    }

    #[test]
    fn a_server_without_planned_absences_is_reported() {
        let older = |status, code: &str| ErrorResponse {
            refusal: serde_json::from_value(serde_json::json!({ "error": "x", "code": code })).ok(),
            ..response(status)
        };
        for response in [
            older(StatusCode::UNAUTHORIZED, "missing_token"),
            older(StatusCode::UNAUTHORIZED, "invalid_token"),
            older(StatusCode::NOT_FOUND, "not_found"),
            response(StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let text = absence(&Outcome::Refused(response), &Redactor::default());
            assert!(text.contains(NO_ABSENCES), "{text}");
            assert!(!text.contains(CHECK_IN_PATH), "{text}");
        }
        let text = absence(
            &Outcome::Refused(older(StatusCode::UNAUTHORIZED, "invalid_token")),
            &Redactor::default(),
        );
        assert!(!text.contains(IN_FRONT), "{text}");
    }

    #[test]
    fn an_absence_gets_no_hint_about_check_ins() {
        for (refusal_of, expected) in [
            (Refusal::WriteFailed, "not announced"),
            (Refusal::RateLimited, "in a minute"),
            (Refusal::Misconfigured, "without planned absences"),
            (Refusal::WrongApiKey, env_vars::API_KEY),
        ] {
            let text = absence(&Outcome::Refused(refusal(refusal_of)), &Redactor::default());
            assert!(text.contains(expected) && !text.contains("check-in"), "{text}");
        }
    }

    #[test]
    fn values_from_the_server_are_redacted() {
        let echo = |text: &str| Some(format!("you sent hunter2 \x1b[31m {text}"));
        let response = ErrorResponse {
            location: echo("location"),
            retry_after: echo("retry"),
            mitigated: echo("mitigated"),
            refusal: Some(RefusalBody {
                error: echo("error").unwrap(),
                code: echo("code").unwrap(),
                field: echo("field"),
                expected: echo("expected"),
            }),
            ..response(StatusCode::BAD_REQUEST)
        };
        let redactor = Redactor::new([Secret::new("hunter2")]);
        let refused = Outcome::Refused(response);
        for (report, parts) in
            [(outcome(&refused, &redactor), 7), (summary(&refused, &redactor), 5)]
        {
            assert!(!report.contains("hunter2") && !report.contains('\x1b'), "{report}");
            assert_eq!(report.matches("[redacted]").count(), parts, "{report}");
        }
    }
}
