//! Settings, checked: what leaves this module can be used without another thought.

use std::path::PathBuf;
use std::time::Duration;

use kiloclaw_checkin::limits::MAX_SANDBOX_ID_BYTES;
use ureq::http::{HeaderValue, Uri};

use crate::cli::Settings;
use crate::collect::Sources;
use crate::collect::supervisor::StatusSource;
use crate::secret::Secret;
use crate::variables;

/// What is wrong with the settings. It names variables and never quotes values: a URL or a token
/// may hold a secret even where it is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// These are required and not set.
    #[error("not set: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// This is not a URL that can be asked.
    #[error("{0} must be a full http:// or https:// URL with a host and without user and password")]
    Url(&'static str),
    /// A header cannot carry this.
    #[error("{0} must hold only printable ASCII characters")]
    NotAHeader(&'static str),
    /// A sandbox's id cannot be this.
    #[error("the sandbox id must be a string of 1 to {MAX_SANDBOX_ID_BYTES} bytes")]
    SandboxId,
}

/// Who reports, from what, and how far requests may go.
#[derive(Debug)]
pub struct Config {
    /// The sandbox that reports: 1 to 96 bytes.
    pub sandbox_id: String,
    /// The machine that runs it.
    pub machine_id: Option<String>,
    /// What is reported as the controller's version.
    pub controller_version: String,
    /// What is reported as the controller's commit.
    pub controller_commit: String,
    /// The network interfaces whose bytes count; none is the default choice.
    pub net_interfaces: Vec<String>,
    /// Where readings come from.
    pub sources: Sources,
    /// Where the counters of the last accepted check-in are kept.
    pub state_file: Option<PathBuf>,
    /// How long each request may take.
    pub timeout: Duration,
}

/// Where check-ins go, and as whom.
#[derive(Debug)]
pub struct Target {
    /// The check-in endpoint.
    pub url: Uri,
    /// `authorization`, complete.
    pub authorization: HeaderValue,
    /// `x-kiloclaw-gateway-token`.
    pub gateway_token: HeaderValue,
}

impl Config {
    /// Checks what every check-in needs, sent or not.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let sandbox_id =
            settings.sandbox_id.clone().ok_or(ConfigError::Missing(vec![variables::SANDBOX_ID]))?;
        check_sandbox_id(&sandbox_id)?;
        let status = match &settings.status_url {
            None => None,
            Some(status_url) => Some(StatusSource {
                url: url(status_url, variables::STATUS_URL)?,
                authorization: present(settings.gateway_token.as_ref())
                    .map(|token| header(token, "Bearer ", variables::GATEWAY_TOKEN))
                    .transpose()?,
            }),
        };
        Ok(Self {
            sandbox_id,
            machine_id: settings.machine_id.clone(),
            controller_version: settings.controller_version.clone(),
            controller_commit: settings.controller_commit.clone(),
            net_interfaces: settings.net_interfaces.clone(),
            sources: Sources {
                proc_root: settings.proc_root.clone(),
                openclaw_command: settings.openclaw_command.clone(),
                status,
            },
            state_file: settings.state_file.clone(),
            timeout: Duration::from_secs(settings.timeout),
        })
    }
}

impl Target {
    /// Checks what it takes to send a check-in. All that is missing is told at once.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let api_key = present(settings.api_key.as_ref());
        let gateway_token = present(settings.gateway_token.as_ref());
        let (Some(checkin_url), Some(api_key), Some(gateway_token)) =
            (&settings.checkin_url, api_key, gateway_token)
        else {
            let missing = [
                (settings.checkin_url.is_none(), variables::CHECKIN_URL),
                (api_key.is_none(), variables::API_KEY),
                (gateway_token.is_none(), variables::GATEWAY_TOKEN),
                (settings.sandbox_id.is_none(), variables::SANDBOX_ID),
            ];
            return Err(ConfigError::Missing(
                missing.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect(),
            ));
        };
        Ok(Self {
            url: url(checkin_url, variables::CHECKIN_URL)?,
            authorization: header(api_key, "Bearer ", variables::API_KEY)?,
            gateway_token: header(gateway_token, "", variables::GATEWAY_TOKEN)?,
        })
    }
}

/// Checks a sandbox's id against the contract.
pub fn check_sandbox_id(sandbox_id: &str) -> Result<(), ConfigError> {
    if (1..=MAX_SANDBOX_ID_BYTES).contains(&sandbox_id.len()) {
        Ok(())
    } else {
        Err(ConfigError::SandboxId)
    }
}

/// A secret that is not empty.
fn present(secret: Option<&Secret>) -> Option<&Secret> {
    secret.filter(|secret| !secret.is_empty())
}

fn header(secret: &Secret, prefix: &str, name: &'static str) -> Result<HeaderValue, ConfigError> {
    secret.header_value(prefix).ok_or(ConfigError::NotAHeader(name))
}

/// A URL that is fit to be asked and to be printed: user and password would be neither.
fn url(text: &str, name: &'static str) -> Result<Uri, ConfigError> {
    let url: Uri = text.trim().parse().map_err(|_| ConfigError::Url(name))?;
    let http = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url.host().is_some_and(|host| !host.is_empty());
    let user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if http && host && !user { Ok(url) } else { Err(ConfigError::Url(name)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_full_http_urls() {
        for text in [
            "http://127.0.0.1:8787/api/controller/checkin",
            "https://telemetry.example.com/api/controller/checkin",
            "https://[::1]/",
            " https://example.com\n",
        ] {
            assert!(url(text, "URL").is_ok(), "{text}");
        }
    }

    #[test]
    fn takes_no_other_urls() {
        for text in [
            "",
            "/api/controller/checkin",
            "telemetry.example.com",
            "telemetry.example.com:443",
            "ftp://example.com/",
            "https://",
            "https:///path",
            "https://:443/",
            "https://user:password@example.com/",
            "https://exa mple.com/",
        ] {
            assert_eq!(url(text, "URL"), Err(ConfigError::Url("URL")), "{text}");
        }
    }

    #[test]
    fn a_sandbox_id_has_1_to_96_bytes() {
        assert!(check_sandbox_id("s").is_ok());
        assert!(check_sandbox_id(&"s".repeat(96)).is_ok());
        assert_eq!(check_sandbox_id(""), Err(ConfigError::SandboxId));
        assert_eq!(check_sandbox_id(&"s".repeat(97)), Err(ConfigError::SandboxId));
        assert_eq!(check_sandbox_id(&"ü".repeat(49)), Err(ConfigError::SandboxId));
    }

    proptest! {
        #[test]
        fn no_url_panics(text: String) {
            let _ = url(&text, "URL");
        }
    }
}
