//! Checks and their verdicts, for people and for programs.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::exit::Exit;
use crate::output;
use crate::secret::Redactor;

/// The checks, in order. Programs depend on the names: never rename or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// Flags, variables, and the files that they name.
    Configuration,
    /// Resolving the server's name, or the proxy's.
    Dns,
    /// A TCP connection.
    Connection,
    /// Whether the proxy connects to the server.
    Proxy,
    Tls,
    /// Whether the server is Kiloclaw telemetry and works.
    Server,
    /// This machine's clock against the server's.
    Clock,
    ApiKey,
    GatewayToken,
    /// Whether the token is this sandbox's.
    SandboxId,
    /// The body of a check-in.
    Body,
    Load,
    /// The file system, if one is to be reported.
    Disk,
    Network,
    Openclaw,
    /// The source of the process's state.
    Process,
    StateFile,
}

impl CheckName {
    pub const ALL: [Self; 17] = [
        Self::Configuration,
        Self::Dns,
        Self::Connection,
        Self::Proxy,
        Self::Tls,
        Self::Server,
        Self::Clock,
        Self::ApiKey,
        Self::GatewayToken,
        Self::SandboxId,
        Self::Body,
        Self::Load,
        Self::Disk,
        Self::Network,
        Self::Openclaw,
        Self::Process,
        Self::StateFile,
    ];

    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Dns => "dns",
            Self::Connection => "connection",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Server => "server",
            Self::Clock => "clock",
            Self::ApiKey => "api_key",
            Self::GatewayToken => "gateway_token",
            Self::SandboxId => "sandbox_id",
            Self::Body => "body",
            Self::Load => "load",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Openclaw => "openclaw",
            Self::Process => "process",
            Self::StateFile => "state_file",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Verdict {
    Passed {
        found: String,
    },
    Failed {
        /// For programs.
        code: String,
        message: String,
        fix: String,
    },
    /// Check-ins are accepted, but incomplete or possibly wrong.
    Warned {
        /// For programs.
        code: String,
        message: String,
        fix: String,
    },
    /// Not checked, or nothing to check.
    Skipped {
        message: String,
    },
}

impl Verdict {
    pub fn passed(found: impl Into<String>) -> Self {
        Self::Passed { found: found.into() }
    }

    pub fn failed(
        code: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Failed { code: code.into(), message: message.into(), fix: fix.into() }
    }

    pub fn warned(
        code: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Warned { code: code.into(), message: message.into(), fix: fix.into() }
    }

    pub fn skipped(message: impl Into<String>) -> Self {
        Self::Skipped { message: message.into() }
    }

    /// Skipped, since another check did not pass.
    #[must_use]
    pub fn skipped_after(name: CheckName) -> Self {
        Self::skipped(format!("`{}` has to pass first", name.text()))
    }

    #[must_use]
    pub const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    fn cleaned(self, redactor: &Redactor) -> Self {
        let clean = |text: String| redactor.clean(&text);
        match self {
            Self::Passed { found } => Self::Passed { found: clean(found) },
            Self::Failed { code, message, fix } => {
                Self::Failed { code: clean(code), message: clean(message), fix: clean(fix) }
            }
            Self::Warned { code, message, fix } => {
                Self::Warned { code: clean(code), message: clean(message), fix: clean(fix) }
            }
            Self::Skipped { message } => Self::Skipped { message: clean(message) },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: CheckName,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.text();
        match &self.verdict {
            Verdict::Passed { found } => write!(f, "✓ {name}: {found}"),
            Verdict::Failed { message, fix, .. } => write!(f, "✗ {name}: {message}; {fix}"),
            Verdict::Warned { message, fix, .. } => write!(f, "! {name}: {message}; {fix}"),
            Verdict::Skipped { message } => write!(f, "- {name}: skipped: {message}"),
        }
    }
}

/// Collects verdicts. The output for people prints each verdict at once, since some checks take seconds.
#[derive(Debug)]
pub struct Report {
    json: bool,
    redactor: Redactor,
    checks: Vec<Check>,
    unprintable: Option<io::Error>,
}

#[derive(Serialize)]
struct JsonReport<'a> {
    ok: bool,
    checks: &'a [Check],
}

impl Report {
    /// `redactor` cleans all texts of the report.
    #[must_use]
    pub const fn new(json: bool, redactor: Redactor) -> Self {
        Self { json, redactor, checks: Vec::new(), unprintable: None }
    }

    /// Adds a verdict. A check may have several.
    pub fn put(&mut self, name: CheckName, verdict: Verdict) {
        let check = Check { name, verdict: verdict.cleaned(&self.redactor) };
        if !self.json && self.unprintable.is_none() {
            self.unprintable = output::print(&check.to_string()).err();
        }
        self.checks.push(check);
    }

    /// Adds checks as skipped, since another one did not pass.
    pub fn skip(&mut self, names: &[CheckName], after: CheckName) {
        for &name in names {
            self.put(name, Verdict::skipped_after(after));
        }
    }

    #[must_use]
    pub fn end(self) -> Exit {
        let ok = !self.checks.iter().any(|check| check.verdict.is_failed());
        let text = if self.json {
            serde_json::to_string_pretty(&JsonReport { ok, checks: &self.checks })
                .map_err(io::Error::from)
        } else {
            Ok(summary(&self.checks))
        };
        let printed = match (self.unprintable, text) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(text)) => output::print(&text),
        };
        match printed {
            Err(error) => output::unprintable(&error),
            Ok(()) if ok => Exit::Done,
            Ok(()) => Exit::Failed,
        }
    }
}

fn summary(checks: &[Check]) -> String {
    let count = |is: fn(&Verdict) -> bool| checks.iter().filter(|c| is(&c.verdict)).count();
    let failed = count(Verdict::is_failed);
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped { .. }));
    let warned = count(|verdict| matches!(verdict, Verdict::Warned { .. }));
    let made = checks.len() - skipped;
    let rest = [(warned, "with a warning"), (skipped, "skipped")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .fold(String::new(), |rest, (count, what)| format!("{rest}, {count} {what}"));
    match failed {
        0 => format!("all {made} checks passed{rest}"),
        failed => format!("{failed} of {made} checks failed{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: CheckName, verdict: Verdict) -> Check {
        Check { name, verdict }
    }

    #[test]
    fn a_check_is_one_line() {
        let line = |verdict| check(CheckName::ApiKey, verdict).to_string();
        assert_eq!(line(Verdict::passed("accepted")), "✓ api_key: accepted");
        assert_eq!(line(Verdict::failed("c", "refused", "fix it")), "✗ api_key: refused; fix it");
        assert_eq!(line(Verdict::warned("c", "missing", "add it")), "! api_key: missing; add it");
        assert_eq!(
            line(Verdict::skipped_after(CheckName::Dns)),
            "- api_key: skipped: `dns` has to pass first"
        );
    }

    #[test]
    fn the_summary_counts_the_checks() {
        let passed = check(CheckName::Dns, Verdict::passed(""));
        let failed = check(CheckName::Tls, Verdict::failed("", "", ""));
        let skipped = check(CheckName::Body, Verdict::skipped(""));
        assert_eq!(summary(&[passed.clone(), passed.clone()]), "all 2 checks passed");
        assert_eq!(summary(&[passed.clone(), skipped.clone()]), "all 1 checks passed, 1 skipped");
        let warned = check(CheckName::Openclaw, Verdict::warned("", "", ""));
        assert_eq!(
            summary(&[passed.clone(), warned, skipped.clone()]),
            "all 2 checks passed, 1 with a warning, 1 skipped"
        );
        assert_eq!(summary(&[passed, failed, skipped]), "1 of 2 checks failed, 1 skipped");
    }

    #[test]
    fn json_has_the_same_names() {
        for name in CheckName::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.text());
        }
    }

    #[test]
    fn json_has_a_status_and_its_members() {
        let json = |verdict| serde_json::to_value(check(CheckName::Tls, verdict)).unwrap();
        assert_eq!(
            json(Verdict::passed("f")),
            serde_json::json!({"name": "tls", "status": "passed", "found": "f"})
        );
        assert_eq!(
            json(Verdict::failed("c", "m", "n")),
            serde_json::json!({"name": "tls", "status": "failed", "code": "c", "message": "m", "fix": "n"})
        );
        assert_eq!(
            json(Verdict::warned("c", "m", "n")),
            serde_json::json!({"name": "tls", "status": "warned", "code": "c", "message": "m", "fix": "n"})
        );
        assert_eq!(
            json(Verdict::skipped("m")),
            serde_json::json!({"name": "tls", "status": "skipped", "message": "m"})
        );
    }
}
