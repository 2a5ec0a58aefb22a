//! The settings, each checked for itself, so that all that is wrong is told at once and the rest can
//! be used.

use std::time::Duration;

use kiloclaw_checkin::DRY_RUN_PARAMETER;
use ureq::Proxy;
use ureq::http::Uri;

use crate::cli::{DoctorArguments, Settings};
use crate::collect::network::Interfaces;
use crate::collect::{Source, Sources};
use crate::config::{self, Config, ConfigError, Credentials};
use crate::doctor::check::Verdict;
use crate::http::Client;
use crate::secret::{Redactor, Secret};
use crate::variables;

/// What can be used of the settings, and what is wrong with the others.
#[derive(Debug)]
pub struct Usable {
    /// What is wrong.
    pub problems: Vec<Verdict>,
    /// Knows all secrets that could be read.
    pub redactor: Redactor,
    /// The check-in endpoint.
    pub url: Option<Uri>,
    /// The proxy, if this URL is asked through one.
    pub proxy: Option<Proxy>,
    /// What asks there; `None` if the proxy or the authorities cannot be used.
    pub client: Option<Client>,
    /// The API key, fit for a header.
    pub api_key: Option<Secret>,
    /// The gateway token, whatever it is.
    pub gateway_token: Option<Secret>,
    /// The sandbox's id, of a valid length.
    pub sandbox_id: Option<String>,
    /// Who knows the state of the process.
    pub source: Option<Source>,
    /// What asks a controller.
    pub local: Option<Client>,
    /// The network interfaces whose bytes count.
    pub interfaces: Option<Interfaces>,
    /// How long each step may take.
    pub timeout: Duration,
}

impl Usable {
    /// Checks every setting.
    #[must_use]
    pub fn new(arguments: &DoctorArguments) -> Self {
        let settings = &arguments.settings;
        let mut problems = Problems::default();
        let (api_key, gateway_token) = (config::api_key(settings), config::gateway_token(settings));
        problems.missing(&[
            (settings.checkin_url.is_none(), variables::CHECKIN_URL),
            (matches!(api_key, Ok(None)), variables::API_KEY),
            (matches!(gateway_token, Ok(None)), variables::GATEWAY_TOKEN),
        ]);
        problems.missing(&[(settings.sandbox_id.is_none(), variables::SANDBOX_ID)]);
        let api_key = problems.unless(api_key).flatten();
        let gateway_token = problems.unless(gateway_token).flatten();
        let credentials = Credentials { api_key, gateway_token };
        let redactor = config::redactor(settings, &credentials);
        let Credentials { api_key, gateway_token } = credentials;
        let api_key = api_key.filter(|key| {
            problems.unless(config::header(key, "Bearer ", variables::API_KEY)).is_some()
        });
        let sandbox_id = settings.sandbox_id.clone();
        let sandbox_id =
            sandbox_id.filter(|id| problems.unless(config::check_sandbox_id(id)).is_some());

        problems.unless(config::check_ids(settings));

        let url = settings.checkin_url.as_deref();
        let url = url.map(|text| config::url(text, variables::CHECKIN_URL, settings));
        let url = url.and_then(|url| problems.unless(url));
        if url.as_ref().is_some_and(has_dry_run) {
            problems.0.push(dry_run_in_url());
        }
        let proxy = url.as_ref().map(|url| config::proxy_to(url, settings));
        let proxy = proxy.and_then(|proxy| problems.unless(proxy));
        let roots = url.as_ref().map(|url| config::roots(url, settings));
        let roots = roots.and_then(|roots| problems.unless(roots));
        let timeout = Duration::from_secs(settings.timeout);
        let client =
            proxy.clone().zip(roots).map(|(proxy, roots)| Client::new(timeout, roots, proxy));

        // A token that no header can carry is told as a malformed one.
        let token = gateway_token.as_ref().filter(|token| token.header_value("").is_some());
        let source = config::process_source(settings, &arguments.source, token, &redactor);
        let source = problems.unless(source);
        let local = source.as_ref().map(|source| config::local_client(source, settings));
        let local = local.and_then(|local| problems.unless(local));
        let interfaces = Interfaces::new(&settings.net_interfaces).map_err(ConfigError::from);
        let interfaces = problems.unless(interfaces);
        for warning in config::warnings(settings) {
            let mend = "write it as example.com, .example.com, 10.0.0.1 or 10.0.0.0/8";
            problems.0.push(Verdict::warned("invalid_no_proxy", warning, mend));
        }
        Self {
            problems: problems.0,
            redactor,
            url,
            proxy: proxy.flatten(),
            client,
            api_key,
            gateway_token,
            sandbox_id,
            source,
            local,
            interfaces,
            timeout,
        }
    }

    /// All that the body of a sandbox's check-in takes.
    #[must_use]
    pub fn config(&self, settings: &Settings, sandbox_id: &str) -> Option<Config> {
        Some(Config {
            sandbox_id: sandbox_id.to_owned(),
            machine_id: settings.machine_id.clone(),
            controller_version: settings.controller_version.clone(),
            controller_commit: settings.controller_commit.clone(),
            interfaces: self.interfaces.clone()?,
            sources: Sources {
                proc_root: settings.proc_root.clone(),
                openclaw_command: settings.openclaw_command.clone(),
                process: self.source.clone()?,
            },
            timeout: self.timeout,
            local: self.local.clone()?,
            redactor: self.redactor.clone(),
            warnings: Vec::new(),
        })
    }
}

#[derive(Default)]
struct Problems(Vec<Verdict>);

impl Problems {
    /// What can be used, unless there is something wrong with it.
    fn unless<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        let told = result.map_err(|error| {
            let verdict = verdict(&error);
            // The file of authorities is both for the server and for a controller.
            if !self.0.contains(&verdict) {
                self.0.push(verdict);
            }
        });
        told.ok()
    }

    fn missing(&mut self, variables: &[(bool, &'static str)]) {
        let missing: Vec<_> =
            variables.iter().filter(|(is, _)| *is).map(|&(_, name)| name).collect();
        if !missing.is_empty() {
            self.unless::<()>(Err(ConfigError::Missing(missing)));
        }
    }
}

/// Check-ins to such a URL are never written.
fn has_dry_run(url: &Uri) -> bool {
    url.query().is_some_and(|query| {
        query.split('&').any(|pair| pair.split('=').next() == Some(DRY_RUN_PARAMETER))
    })
}

fn dry_run_in_url() -> Verdict {
    let url = variables::CHECKIN_URL;
    Verdict::failed(
        "dry_run_url",
        format!("{url} asks for dry runs: check-ins would be checked and not written"),
        format!("take `{DRY_RUN_PARAMETER}` out of its query"),
    )
}

fn verdict(error: &ConfigError) -> Verdict {
    use variables::{CA_FILE, GATEWAY_TOKEN, SANDBOX_ID};

    let (code, mend) = match error {
        ConfigError::Missing(names) if *names == [SANDBOX_ID] => {
            ("wrong_sandbox_id", format!("set it to the id that {GATEWAY_TOKEN} was made for"))
        }
        ConfigError::Missing(_) => (
            "not_set",
            "set what is missing in the environment; secrets can be in files, see --help"
                .to_owned(),
        ),
        ConfigError::Url(_) => {
            ("invalid_url", "write it as https://telemetry.example.com/path".to_owned())
        }
        ConfigError::InsecureHttp(_) => {
            ("insecure_http", "https needs nothing else on this side".to_owned())
        }
        ConfigError::NotAHeader(_) => {
            ("invalid_value", "copy it again, without line breaks inside".to_owned())
        }
        ConfigError::Id { what, .. } if *what != config::THE_SANDBOX_ID => {
            ("invalid_value", "write it without".to_owned())
        }
        ConfigError::SandboxId | ConfigError::Id { .. } => (
            "wrong_sandbox_id",
            format!("set {SANDBOX_ID} to the id that {GATEWAY_TOKEN} was made for"),
        ),
        ConfigError::Unreadable { .. } => (
            "unreadable_file",
            "check the path, and that the agent's user may read it and the folders above it"
                .to_owned(),
        ),
        ConfigError::NoCertificate(_) => (
            "no_certificate",
            format!("{CA_FILE} has to hold the authority's certificate, not a key or DER"),
        ),
        ConfigError::Proxy => ("invalid_proxy", "correct it, or leave it out".to_owned()),
        #[cfg(feature = "sentry")]
        ConfigError::SentryDsn => ("invalid_dsn", "correct it, or leave it out".to_owned()),
        ConfigError::Interface(_) => {
            ("invalid_interface", "`ip -brief link` lists the interfaces".to_owned())
        }
        ConfigError::Unit(_) => {
            ("invalid_unit", "`systemctl list-units --type=service` lists the units".to_owned())
        }
        ConfigError::TwoSources | ConfigError::NoSource => {
            ("two_sources", "leave one of them out".to_owned())
        }
    };
    Verdict::failed(code, error.to_string(), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_asks_for_dry_runs_is_noticed() {
        for url in ["http://h/?dry_run=1", "http://h/?a=b&dry_run", "http://h/?dry_run=0"] {
            assert!(has_dry_run(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://h/", "http://h/?a=dry_run", "http://h/dry_run=1?adry_run=1"] {
            assert!(!has_dry_run(&url.parse().unwrap()), "{url}");
        }
    }
}
