//! `kiloclaw-agent doctor`: checks everything that a check-in needs, with a fix for each problem.
//!
//! A failed [check] skips only the checks that need it: first the [settings], then the [route] to the server and its
//! [responses](server), then the [readings]. The server stores nothing: the first request shows whether it supports the
//! dry run, and `doctor` sends no check-in to a server that does not.

use std::time::{Duration, Instant, SystemTime};

use kiloclaw_check_in::{CheckIn, DRY_RUN_PARAMETER, DRY_RUN_QUERY, Refusal};
use ureq::http::{HeaderValue, Uri};

use crate::cli::DoctorArguments;
use crate::collect::Readings;
use crate::config::{Checked, Target};
use crate::env_vars;
use crate::exit::Exit;
use crate::http::Cause;
use crate::report::check_in::check_in;
use crate::report::explain;
use crate::report::ledger::Unreported;
use crate::report::send::{Outcome, send_to};

pub mod check;
pub mod readings;
pub mod route;
pub mod server;
pub mod settings;

use check::{CheckName, Report, Verdict};
use route::Peer;
use server::{DryRun, ProbeResult};

/// Replaces a missing credential, so that the server still gets a complete request; valid in both headers.
const PLACEHOLDER: HeaderValue = HeaderValue::from_static("Bearer not-set");

/// Runs all checks.
#[must_use]
pub fn run(arguments: &DoctorArguments) -> Exit {
    let usable = Checked::new(&arguments.settings, &arguments.source, true);
    let mut report = Report::new(arguments.json, usable.redactor.clone());
    let problems = settings::verdicts(&usable, &arguments.settings);
    if problems.is_empty() {
        report.put(CheckName::Configuration, Verdict::passed("complete and valid"));
    }
    for problem in problems {
        report.put(CheckName::Configuration, problem);
    }
    let (readings, verdicts) = readings::collect(&arguments.settings, &usable);
    let examination = Examination { arguments, usable: &usable, readings: &readings };
    examination.check_server(&mut report);
    for (name, verdict) in verdicts {
        report.put(name, verdict);
    }
    readings::state_file(&arguments.state, usable.sandbox_id.as_deref(), &mut report);
    report.end()
}

struct Examination<'a> {
    arguments: &'a DoctorArguments,
    usable: &'a Checked<'a>,
    readings: &'a Readings,
}

impl Examination<'_> {
    /// Checks everything up to an accepted check-in, until something is missing.
    fn check_server(&self, report: &mut Report) {
        let usable = self.usable;
        let (Some(url), Some(target)) = (&usable.url, usable.target(Some(&PLACEHOLDER))) else {
            let way = [CheckName::Dns, CheckName::Connection, CheckName::Proxy, CheckName::Tls];
            report.skip(&way, CheckName::Configuration);
            self.skip_server(report, CheckName::Configuration);
            return;
        };
        let peer = self.peer(url);
        let (verdict, addresses) = route::resolve(&peer, usable.timeout);
        let failed = verdict.is_failed();
        report.put(CheckName::Dns, verdict);
        if failed {
            report.skip(&[CheckName::Connection, CheckName::Proxy, CheckName::Tls], CheckName::Dns);
            self.skip_server(report, CheckName::Dns);
            return;
        }
        let verdict = route::connect(&peer, &addresses, usable.timeout);
        let failed = verdict.is_failed();
        report.put(CheckName::Connection, verdict);
        if failed {
            report.skip(&[CheckName::Proxy, CheckName::Tls], CheckName::Connection);
            self.skip_server(report, CheckName::Connection);
            return;
        }
        self.probe_server(&target, report);
    }

    /// Skips the server's checks, except for the parts that can run locally.
    fn skip_server(&self, report: &mut Report, gap: CheckName) {
        report.skip(&[CheckName::Server, CheckName::Clock], gap);
        self.skip_credentials(report, gap);
    }

    /// Skips the credentials and the body, except for faults that are found locally.
    fn skip_credentials(&self, report: &mut Report, gap: CheckName) {
        report.skip(&[CheckName::ApiKey], gap);
        let malformed = self.malformed_token();
        report
            .put(CheckName::GatewayToken, malformed.unwrap_or_else(|| Verdict::skipped_after(gap)));
        report.skip(&[CheckName::SandboxId], gap);
        let verdict = self.local_body_check("").filter(Verdict::is_failed);
        report.put(CheckName::Body, verdict.unwrap_or_else(|| Verdict::skipped_after(gap)));
    }

    fn peer(&self, url: &Uri) -> Peer {
        if let Some(proxy) = &self.usable.proxy {
            return Peer::new(proxy.host(), proxy.port(), env_vars::HTTPS_PROXY);
        }
        let port = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(port);
        Peer::new(url.host().unwrap_or_default(), port, env_vars::CHECKIN_URL)
    }

    /// Probes the server with a request that no version stores.
    fn probe_server(&self, target: &Target, report: &mut Report) {
        let Some(url) = server::with_query(&target.url, &format!("{DRY_RUN_PARAMETER}=")) else {
            report.skip(&[CheckName::Proxy, CheckName::Tls], CheckName::Configuration);
            self.skip_server(report, CheckName::Configuration);
            return;
        };
        let (sent_at, started) = (SystemTime::now(), Instant::now());
        let outcome = send_to(target, &url, "", Duration::MAX);
        let took = started.elapsed();
        if let Some(gap) = report_route(target, &outcome, report) {
            self.skip_server(report, gap);
            return;
        }
        let probe = server::classify_probe(&outcome);
        let verdict = server::server(&probe, &outcome, &target.url);
        let failed = verdict.is_failed();
        report.put(CheckName::Server, verdict);
        let date = match &outcome {
            Outcome::Refused(answer) | Outcome::TryLater(answer) | Outcome::Redirected(answer) => {
                answer.date
            }
            Outcome::Accepted(_) | Outcome::Unreachable(_) => None,
        };
        match &outcome {
            Outcome::Unreachable(_) => report.skip(&[CheckName::Clock], CheckName::Server),
            _ => report.put(CheckName::Clock, server::clock(date, sent_at, took)),
        }
        if failed {
            self.skip_credentials(report, CheckName::Server);
            return;
        }
        self.credentials(target, &probe, &outcome, report);
    }

    fn credentials(
        &self,
        target: &Target,
        probe: &ProbeResult,
        outcome: &Outcome,
        report: &mut Report,
    ) {
        let rest = [CheckName::GatewayToken, CheckName::SandboxId, CheckName::Body];
        let Some(key) = &self.usable.api_key else {
            report.skip(&[CheckName::ApiKey], CheckName::Configuration);
            self.token_alone(report);
            report.skip(&[CheckName::SandboxId, CheckName::Body], CheckName::ApiKey);
            return;
        };
        let several = key.expose().contains(',');
        let verdict = server::api_key(probe, outcome, several);
        let verdict = verdict.unwrap_or_else(|| Verdict::skipped_after(CheckName::Server));
        let failed = verdict.is_failed();
        report.put(CheckName::ApiKey, verdict);
        match probe {
            _ if failed => {
                self.token_alone(report);
                report.skip(&[CheckName::SandboxId, CheckName::Body], CheckName::ApiKey);
            }
            ProbeResult::OlderTelemetry => {
                self.token_alone(report);
                let older = "the server's version has no dry run and would store the check-in";
                report.put(CheckName::SandboxId, Verdict::skipped(older));
                let own = self.local_body_check(older);
                let own = own.unwrap_or_else(|| Verdict::skipped_after(CheckName::Configuration));
                report.put(CheckName::Body, own);
            }
            ProbeResult::Telemetry => self.dry_run(target, report),
            _ => report.skip(&rest, CheckName::Server),
        }
    }

    /// Checks the token without the server.
    fn token_alone(&self, report: &mut Report) {
        let verdict = self.malformed_token().unwrap_or_else(|| match &self.usable.gateway_token {
            Some(_) => Verdict::skipped("well-formed; only the server can verify it"),
            None => Verdict::skipped_after(CheckName::Configuration),
        });
        report.put(CheckName::GatewayToken, verdict);
    }

    fn malformed_token(&self) -> Option<Verdict> {
        let fault = server::malformed(self.usable.gateway_token.as_ref()?.expose())?;
        let fix = format!(
            "copy it again to {}; `kiloclaw-agent gateway-token` prints it",
            env_vars::GATEWAY_TOKEN
        );
        Some(Verdict::failed(Refusal::WrongGatewayToken.code(), fault, fix))
    }

    /// Checks the body locally against the contract; `why` is the reason why the server did not.
    fn local_body_check(&self, why: &str) -> Option<Verdict> {
        let id = self.usable.sandbox_id.as_deref().unwrap_or("unknown");
        let body = self.body(id)?.ok()?;
        Some(match CheckIn::parse_str(&body) {
            Ok(_) => Verdict::skipped(format!("valid according to the contract; {why}")),
            Err(invalid) => {
                let refusal = Refusal::InvalidBody(invalid);
                let fix = "check the setting behind this field";
                Verdict::failed(refusal.code(), invalid.to_string(), fix)
            }
        })
    }

    fn body(&self, sandbox_id: &str) -> Option<serde_json::Result<String>> {
        let config = self.usable.config_of(sandbox_id)?;
        let check_in = check_in(&config, self.readings, Unreported::default());
        Some(serde_json::to_string(&check_in))
    }

    /// Sends a check-in as a dry run with the configured id, and if the token belongs to another id, with likely ids.
    fn dry_run(&self, target: &Target, report: &mut Report) {
        let usable = self.usable;
        let malformed = self.malformed_token();
        let configured = usable.sandbox_id.as_deref();
        let send = |id: &str| {
            let body = self.body(id)?.ok()?;
            let url = server::with_query(&target.url, DRY_RUN_QUERY)?;
            Some(send_to(target, &url, &body, Duration::MAX))
        };
        let first = send(configured.unwrap_or("unknown"));
        let Some(first) = first else {
            self.token_alone(report);
            report.skip(&[CheckName::SandboxId, CheckName::Body], CheckName::Configuration);
            return;
        };
        let token = usable.gateway_token.as_ref();
        match DryRun::new(&first) {
            DryRun::Other => {
                match malformed {
                    Some(malformed) => report.put(CheckName::GatewayToken, malformed),
                    None => report.skip(&[CheckName::GatewayToken], CheckName::Body),
                }
                report.skip(&[CheckName::SandboxId], CheckName::Body);
                report.put(CheckName::Body, server::body(&first));
            }
            DryRun::Accepted => {
                let fine = Verdict::passed("accepted");
                report.put(CheckName::GatewayToken, malformed.unwrap_or(fine));
                report.put(
                    CheckName::SandboxId,
                    match configured {
                        Some(_) => Verdict::passed("the token is this sandbox's"),
                        None => Verdict::skipped_after(CheckName::Configuration),
                    },
                );
                report.put(CheckName::Body, Verdict::passed("accepted, and not written"));
            }
            DryRun::WrongToken => {
                match malformed {
                    Some(malformed) => {
                        report.put(CheckName::GatewayToken, malformed);
                        report.skip(&[CheckName::SandboxId], CheckName::GatewayToken);
                    }
                    None if token.is_none() => {
                        let both = [CheckName::GatewayToken, CheckName::SandboxId];
                        report.skip(&both, CheckName::Configuration);
                    }
                    None => self.find_owner(&first, send, report),
                }
                let valid = "valid: the server checks the token last, and refused only that";
                report.put(CheckName::Body, Verdict::passed(valid));
            }
        }
    }

    /// Finds the sandbox of a well-formed token among likely ids: the server names no owner, but accepts the right id.
    fn find_owner(
        &self,
        refused: &Outcome,
        send: impl Fn(&str) -> Option<Outcome>,
        report: &mut Report,
    ) {
        use env_vars::{GATEWAY_TOKEN, SANDBOX_ID};

        let DoctorArguments { settings, state, .. } = self.arguments;
        let configured = settings.sandbox_id.as_deref();
        let others = [
            readings::sandbox_of_state(state),
            settings.machine_id.clone(),
            readings::host_name(&settings.proc_root),
        ];
        let owner = server::candidates(configured, others)
            .into_iter()
            .find(|id| send(id).is_some_and(|outcome| DryRun::new(&outcome) == DryRun::Accepted));
        match (owner, &self.usable.sandbox_id) {
            (Some(owner), _) => {
                let instead = configured.map(|id| format!(", not `{id}`")).unwrap_or_default();
                let fix = match configured {
                    Some(id) => {
                        format!("set {SANDBOX_ID} to it, or {GATEWAY_TOKEN} to the token of `{id}`")
                    }
                    None => format!("set {SANDBOX_ID} to it"),
                };
                report.put(
                    CheckName::GatewayToken,
                    Verdict::passed("valid, but for another sandbox"),
                );
                report.put(
                    CheckName::SandboxId,
                    Verdict::failed(
                        "wrong_sandbox_id",
                        format!("the token belongs to `{owner}`{instead}"),
                        fix,
                    ),
                );
            }
            (None, Some(_)) => {
                let code = Refusal::WrongGatewayToken.code();
                let verdict =
                    Verdict::failed(code, server::describe(refused), explain::hint(refused));
                report.put(CheckName::GatewayToken, verdict);
                report.skip(&[CheckName::SandboxId], CheckName::GatewayToken);
            }
            (None, None) => {
                report.skip(
                    &[CheckName::GatewayToken, CheckName::SandboxId],
                    CheckName::Configuration,
                );
            }
        }
    }
}

/// Reports the proxy and TLS checks, and returns the failed one.
fn report_route(target: &Target, outcome: &Outcome, report: &mut Report) -> Option<CheckName> {
    let hint = explain::hint(outcome);
    let https = target.url.scheme_str() == Some("https");
    let no_answer = match outcome {
        Outcome::Unreachable(no_answer) => Some(no_answer),
        _ => None,
    };
    let cause = no_answer.map(|no_answer| no_answer.cause);
    let reason = no_answer.map(|no_answer| no_answer.reason.clone()).unwrap_or_default();
    match (&target.proxy, cause) {
        (None, _) => report.put(CheckName::Proxy, Verdict::skipped("none is used")),
        (Some(_), Some(cause @ Cause::Proxy)) => {
            report.put(CheckName::Proxy, Verdict::failed(cause.code(), reason, hint));
            report.skip(&[CheckName::Tls], CheckName::Proxy);
            return Some(CheckName::Proxy);
        }
        (Some(_), Some(Cause::Timeout | Cause::Closed | Cause::NotHttp | Cause::Network)) => {
            let silent = "no response shows whether it connects";
            report.put(CheckName::Proxy, Verdict::skipped(silent));
        }
        (Some(_), _) => report.put(CheckName::Proxy, Verdict::passed("it connects to the server")),
    }
    match cause {
        _ if !https => report.put(CheckName::Tls, Verdict::skipped("the URL is not https")),
        Some(cause @ Cause::Tls(_)) => {
            report.put(CheckName::Tls, Verdict::failed(cause.code(), reason, hint));
            return Some(CheckName::Tls);
        }
        Some(_) => {
            let silent = "no response shows whether TLS works";
            report.put(CheckName::Tls, Verdict::skipped(silent));
        }
        None => report.put(CheckName::Tls, Verdict::passed("the server's certificate is trusted")),
    }
    None
}
