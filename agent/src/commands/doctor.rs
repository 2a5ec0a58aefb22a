//! `kiloclaw-agent doctor`: checks everything that a check-in needs, and says how to fix what is wrong.
//!
//! Every [check] runs as far as it can, whatever else fails: first the [settings], then the [route] to the server and
//! its [answers](server), then the [readings]. Nothing is stored: the first request shows whether the server knows the dry
//! run, and a server that does not never gets a check-in.

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

use check::{Name, Report, Verdict};
use route::Peer;
use server::{DryRun, Met};

/// Replaces a missing credential, so that the server answers all the same; valid in both headers.
const PLACEHOLDER: HeaderValue = HeaderValue::from_static("Bearer not-set");

/// Runs all checks.
#[must_use]
pub fn run(arguments: &DoctorArguments) -> Exit {
    let usable = Checked::new(&arguments.settings, &arguments.source, true);
    let mut report = Report::new(arguments.json, usable.redactor.clone());
    let problems = settings::verdicts(&usable, &arguments.settings);
    if problems.is_empty() {
        report.put(Name::Configuration, Verdict::passed("complete and valid"));
    }
    for problem in problems {
        report.put(Name::Configuration, problem);
    }
    let (readings, verdicts) = readings::collect(&arguments.settings, &usable);
    let examination = Examination { arguments, usable: &usable, readings: &readings };
    examination.reach(&mut report);
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
    fn reach(&self, report: &mut Report) {
        let usable = self.usable;
        let (Some(url), Some(target)) = (&usable.url, usable.target(Some(&PLACEHOLDER))) else {
            let way = [Name::Dns, Name::Connection, Name::Proxy, Name::Tls];
            report.skip(&way, Name::Configuration);
            self.skip_server(report, Name::Configuration);
            return;
        };
        let peer = self.peer(url);
        let (verdict, addresses) = route::resolve(&peer, usable.timeout);
        let failed = verdict.is_failed();
        report.put(Name::Dns, verdict);
        if failed {
            report.skip(&[Name::Connection, Name::Proxy, Name::Tls], Name::Dns);
            self.skip_server(report, Name::Dns);
            return;
        }
        let verdict = route::connect(&peer, &addresses, usable.timeout);
        let failed = verdict.is_failed();
        report.put(Name::Connection, verdict);
        if failed {
            report.skip(&[Name::Proxy, Name::Tls], Name::Connection);
            self.skip_server(report, Name::Connection);
            return;
        }
        self.ask(&target, report);
    }

    /// The checks that do not need the server.
    fn skip_server(&self, report: &mut Report, gap: Name) {
        report.skip(&[Name::Server, Name::Clock], gap);
        self.skip_credentials(report, gap);
    }

    /// The checks that do not need the server to verify credentials.
    fn skip_credentials(&self, report: &mut Report, gap: Name) {
        report.skip(&[Name::ApiKey], gap);
        let malformed = self.malformed_token();
        report.put(Name::GatewayToken, malformed.unwrap_or_else(|| Verdict::skipped_after(gap)));
        report.skip(&[Name::SandboxId], gap);
        let verdict = self.own_verdict("").filter(Verdict::is_failed);
        report.put(Name::Body, verdict.unwrap_or_else(|| Verdict::skipped_after(gap)));
    }

    /// The host to connect to.
    fn peer(&self, url: &Uri) -> Peer {
        if let Some(proxy) = &self.usable.proxy {
            return Peer::new(proxy.host(), proxy.port(), env_vars::HTTPS_PROXY);
        }
        let port = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(port);
        Peer::new(url.host().unwrap_or_default(), port, env_vars::CHECKIN_URL)
    }

    /// Probes the server, with a request that no version stores.
    fn ask(&self, target: &Target, report: &mut Report) {
        let Some(url) = server::with_query(&target.url, &format!("{DRY_RUN_PARAMETER}=")) else {
            report.skip(&[Name::Proxy, Name::Tls], Name::Configuration);
            self.skip_server(report, Name::Configuration);
            return;
        };
        let (sent_at, started) = (SystemTime::now(), Instant::now());
        let outcome = send_to(target, &url, "", Duration::MAX);
        let took = started.elapsed();
        if let Some(gap) = way(target, &outcome, report) {
            self.skip_server(report, gap);
            return;
        }
        let met = server::meet(&outcome);
        let verdict = server::server(&met, &outcome, &target.url);
        let failed = verdict.is_failed();
        report.put(Name::Server, verdict);
        let date = match &outcome {
            Outcome::Refused(answer) | Outcome::TryLater(answer) | Outcome::Redirected(answer) => {
                answer.date
            }
            Outcome::Accepted(_) | Outcome::Unreachable(_) => None,
        };
        match &outcome {
            Outcome::Unreachable(_) => report.skip(&[Name::Clock], Name::Server),
            _ => report.put(Name::Clock, server::clock(date, sent_at, took)),
        }
        if failed {
            self.skip_credentials(report, Name::Server);
            return;
        }
        self.credentials(target, &met, &outcome, report);
    }

    fn credentials(&self, target: &Target, met: &Met, outcome: &Outcome, report: &mut Report) {
        let rest = [Name::GatewayToken, Name::SandboxId, Name::Body];
        let Some(key) = &self.usable.api_key else {
            report.skip(&[Name::ApiKey], Name::Configuration);
            self.token_alone(report);
            report.skip(&[Name::SandboxId, Name::Body], Name::ApiKey);
            return;
        };
        let several = key.expose().contains(',');
        let verdict = server::api_key(met, outcome, several);
        let verdict = verdict.unwrap_or_else(|| Verdict::skipped_after(Name::Server));
        let failed = verdict.is_failed();
        report.put(Name::ApiKey, verdict);
        match met {
            _ if failed => {
                self.token_alone(report);
                report.skip(&[Name::SandboxId, Name::Body], Name::ApiKey);
            }
            Met::OlderTelemetry => {
                self.token_alone(report);
                let older = "the server is of a version without the dry run, and would write it";
                report.put(Name::SandboxId, Verdict::skipped(older));
                let own = self.own_verdict(older);
                let own = own.unwrap_or_else(|| Verdict::skipped_after(Name::Configuration));
                report.put(Name::Body, own);
            }
            Met::Telemetry => self.dry_run(target, report),
            _ => report.skip(&rest, Name::Server),
        }
    }

    /// Checks the token without the server.
    fn token_alone(&self, report: &mut Report) {
        let verdict = self.malformed_token().unwrap_or_else(|| match &self.usable.gateway_token {
            Some(_) => Verdict::skipped("well-formed; only the server can say whether it is right"),
            None => Verdict::skipped_after(Name::Configuration),
        });
        report.put(Name::GatewayToken, verdict);
    }

    fn malformed_token(&self) -> Option<Verdict> {
        let fault = server::malformed(self.usable.gateway_token.as_ref()?.expose())?;
        let fix = format!(
            "copy it again to {}; `kiloclaw-agent gateway-token` prints it",
            env_vars::GATEWAY_TOKEN
        );
        Some(Verdict::failed(Refusal::WrongGatewayToken.code(), fault, fix))
    }

    /// Checks the body by the contract if the server did not; `why` is the reason.
    fn own_verdict(&self, why: &str) -> Option<Verdict> {
        let id = self.usable.sandbox_id.as_deref().unwrap_or("unknown");
        let body = self.body(id)?.ok()?;
        Some(match CheckIn::parse_str(&body) {
            Ok(_) => Verdict::skipped(format!("valid by itself; {why}")),
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

    /// Sends a check-in as a dry run: under the configured id, and if the token is not that id's, under ids that may be meant.
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
            report.skip(&[Name::SandboxId, Name::Body], Name::Configuration);
            return;
        };
        let token = usable.gateway_token.as_ref();
        match DryRun::new(&first) {
            DryRun::Otherwise => {
                match malformed {
                    Some(malformed) => report.put(Name::GatewayToken, malformed),
                    None => report.skip(&[Name::GatewayToken], Name::Body),
                }
                report.skip(&[Name::SandboxId], Name::Body);
                report.put(Name::Body, server::body(&first));
            }
            DryRun::Accepted => {
                let fine = Verdict::passed("accepted");
                report.put(Name::GatewayToken, malformed.unwrap_or(fine));
                report.put(
                    Name::SandboxId,
                    match configured {
                        Some(_) => Verdict::passed("the token is this sandbox's"),
                        None => Verdict::skipped_after(Name::Configuration),
                    },
                );
                report.put(Name::Body, Verdict::passed("accepted, and not written"));
            }
            DryRun::WrongToken => {
                match malformed {
                    Some(malformed) => {
                        report.put(Name::GatewayToken, malformed);
                        report.skip(&[Name::SandboxId], Name::GatewayToken);
                    }
                    None if token.is_none() => {
                        let both = [Name::GatewayToken, Name::SandboxId];
                        report.skip(&both, Name::Configuration);
                    }
                    None => self.whose(&first, send, report),
                }
                let valid = "valid: the server looks at the token last";
                report.put(Name::Body, Verdict::passed(valid));
            }
        }
    }

    /// Finds the sandbox of a well-formed token. The server does not name it, but confirms the right one.
    fn whose(
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
                report.put(Name::GatewayToken, Verdict::passed("valid, but of another sandbox"));
                report.put(
                    Name::SandboxId,
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
                report.put(Name::GatewayToken, verdict);
                report.skip(&[Name::SandboxId], Name::GatewayToken);
            }
            (None, None) => {
                report.skip(&[Name::GatewayToken, Name::SandboxId], Name::Configuration);
            }
        }
    }
}

/// Reports the outcome for proxy and TLS, whichever failed.
fn way(target: &Target, outcome: &Outcome, report: &mut Report) -> Option<Name> {
    let hint = explain::hint(outcome);
    let https = target.url.scheme_str() == Some("https");
    let no_answer = match outcome {
        Outcome::Unreachable(no_answer) => Some(no_answer),
        _ => None,
    };
    let cause = no_answer.map(|no_answer| no_answer.cause);
    let reason = no_answer.map(|no_answer| no_answer.reason.clone()).unwrap_or_default();
    match (&target.proxy, cause) {
        (None, _) => report.put(Name::Proxy, Verdict::skipped("none is used")),
        (Some(_), Some(cause @ Cause::Proxy)) => {
            report.put(Name::Proxy, Verdict::failed(cause.code(), reason, hint));
            report.skip(&[Name::Tls], Name::Proxy);
            return Some(Name::Proxy);
        }
        (Some(_), Some(Cause::Timeout | Cause::Closed | Cause::NotHttp | Cause::Network)) => {
            let silent = "there was no answer that shows whether it connects";
            report.put(Name::Proxy, Verdict::skipped(silent));
        }
        (Some(_), _) => report.put(Name::Proxy, Verdict::passed("it connects to the server")),
    }
    match cause {
        _ if !https => report.put(Name::Tls, Verdict::skipped("the URL is not https")),
        Some(cause @ Cause::Tls(_)) => {
            report.put(Name::Tls, Verdict::failed(cause.code(), reason, hint));
            return Some(Name::Tls);
        }
        Some(_) => {
            let silent = "there was no answer that shows whether it is secure";
            report.put(Name::Tls, Verdict::skipped(silent));
        }
        None => report.put(Name::Tls, Verdict::passed("the server's certificate is trusted")),
    }
    None
}
