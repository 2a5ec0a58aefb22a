//! Validated settings.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiloclaw_check_in::DRY_RUN_PARAMETER;
use kiloclaw_check_in::limits::{MAX_SANDBOX_ID_BYTES, has_control_characters};
use ureq::http::{HeaderValue, Uri};
use ureq::tls::RootCerts;
use ureq::{Proxy, ProxyProtocol};

use crate::cli::{DaemonArguments, Settings, SourceArguments};
use crate::collect::network::{Interfaces, InvalidInterface};
use crate::collect::status_url::StatusSource;
use crate::collect::systemd::{InvalidName, Unit};
use crate::collect::{Source, Sources};
use crate::daemon::schedule::Timing;
use crate::http::{self, Client};
use crate::secret::{Redactor, Secret};
use crate::{bounded, env_vars, http::no_proxy};

/// Maximum size of a secret's file in bytes; a header holds far less.
const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Maximum size of a file with certificate authorities, in bytes; a system's file has a fifth of that.
const MAX_CA_BYTES: usize = 1024 * 1024;

/// An invalid setting. Its text names variables and never quotes values, which may hold secrets even if malformed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("not set: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    #[error("{0} must be a full http:// or https:// URL with a host and without user and password")]
    Url(&'static str),
    #[error(
        "{0} would send credentials unencrypted: use https, or --allow-insecure-http \
         ({env}=1) if that network can be trusted",
        env = env_vars::ALLOW_INSECURE_HTTP
    )]
    InsecureHttp(&'static str),
    /// The URL's query requests dry runs, which are never stored.
    #[error(
        "{} asks for dry runs, in which check-ins are checked and not written: take \
         `{DRY_RUN_PARAMETER}` out of its query",
        env_vars::CHECKIN_URL
    )]
    DryRun,
    /// Not valid in a header.
    #[error("{0} must hold only printable ASCII characters")]
    NotAHeader(&'static str),
    /// Not a valid sandbox id.
    #[error("the sandbox id must be a string of 1 to {MAX_SANDBOX_ID_BYTES} bytes")]
    SandboxId,
    /// An id or version with characters that are there by accident.
    #[error("{what} has {fault}")]
    Id {
        /// Its name.
        what: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The file cannot be read.
    #[error("{variable}: cannot read {}: {error}", .path.display())]
    Unreadable {
        /// The variable that names the file.
        variable: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// The file holds no certificate.
    #[error("{}: there is no certificate in PEM in {}", env_vars::CA_FILE, .0.display())]
    NoCertificate(PathBuf),
    /// Not a usable proxy.
    #[error("{} must be a URL such as http://proxy.example.com:3128", env_vars::HTTPS_PROXY)]
    Proxy,
    /// Not a valid DSN.
    #[cfg(feature = "sentry")]
    #[error("{} must be a DSN such as https://key@sentry.example.com/1", env_vars::SENTRY_DSN)]
    SentryDsn,
    /// Not a valid interface name.
    #[error("{0}")]
    Interface(#[from] InvalidInterface),
    /// Not a valid unit name.
    #[error("{variable}: {0}", variable = env_vars::SYSTEMD_UNIT)]
    Unit(#[from] InvalidName),
    /// Two sources for the state of the process.
    #[error(
        "{} and {} are both set: keep the one that knows the process",
        env_vars::STATUS_URL,
        env_vars::SYSTEMD_UNIT
    )]
    TwoSources,
    #[error(
        "not set: {} or {}; to check in without a process, use `once`",
        env_vars::STATUS_URL,
        env_vars::SYSTEMD_UNIT
    )]
    NoSource,
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
}

/// The sandbox, its sources, and the limits of requests.
#[derive(Debug)]
pub struct Config {
    /// The sandbox's id, 1 to 96 bytes.
    pub sandbox_id: String,
    /// `None` if it is not reported.
    pub machine_id: Option<String>,
    pub controller_version: String,
    pub controller_commit: String,
    pub interfaces: Interfaces,
    pub sources: Sources,
    /// Timeout of each request.
    pub timeout: Duration,
    /// The client for a controller on this machine, which never uses a proxy.
    pub local: Client,
    /// Removes all secrets, used or not.
    pub redactor: Redactor,
    pub warnings: Vec<String>,
}

/// Where to send check-ins, and with which credentials.
#[derive(Debug)]
pub struct Target {
    pub url: Uri,
    /// The complete `authorization` header.
    pub authorization: HeaderValue,
    /// The `x-kiloclaw-gateway-token` header.
    pub gateway_token: HeaderValue,
    /// The HTTP client, through the proxy if there is one.
    pub client: Client,
    /// The proxy, if this URL uses one.
    pub proxy: Option<Proxy>,
}

fn api_key(settings: &Settings, deadline: Instant) -> Result<Option<Secret>, ConfigError> {
    secret(
        settings.api_key_file.as_deref(),
        settings.api_key.as_ref(),
        settings.credentials_directory.as_deref(),
        (env_vars::API_KEY, env_vars::API_KEY_FILE),
        deadline,
    )
}

fn gateway_token(settings: &Settings, deadline: Instant) -> Result<Option<Secret>, ConfigError> {
    secret(
        settings.gateway_token_file.as_deref(),
        settings.gateway_token.as_ref(),
        settings.credentials_directory.as_deref(),
        (env_vars::GATEWAY_TOKEN, env_vars::GATEWAY_TOKEN_FILE),
        deadline,
    )
}

/// Reads a secret from its file, else from its flag or variable, else from systemd.
fn secret(
    file: Option<&Path>,
    value: Option<&Secret>,
    systemd: Option<&Path>,
    (variable, file_variable): (&'static str, &'static str),
    deadline: Instant,
) -> Result<Option<Secret>, ConfigError> {
    let read = |path: &Path| bounded::read_to_string(path, MAX_SECRET_BYTES, deadline);
    let (text, variable, path) = match (file, value, systemd) {
        (Some(file), _, _) => (read(file), file_variable, file.to_owned()),
        (None, None, Some(directory)) => {
            let path = directory.join(variable);
            match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                text => (text, env_vars::CREDENTIALS_DIRECTORY, path),
            }
        }
        (None, value, _) => return Ok(present(value.cloned())),
    };
    let text = text.map_err(|error| ConfigError::Unreadable { variable, path, error })?;
    Ok(present(Some(Secret::new(&text))))
}

fn present(secret: Option<Secret>) -> Option<Secret> {
    secret.filter(|secret| !secret.is_empty())
}

/// Settings that are validated one by one, so that all errors are reported at once and valid ones are usable.
#[derive(Debug)]
pub struct Checked<'a> {
    settings: &'a Settings,
    /// The errors.
    pub problems: Vec<ConfigError>,
    /// Knows all secrets that could be read.
    pub redactor: Redactor,
    pub url: Option<Uri>,
    /// The proxy, if this URL uses one.
    pub proxy: Option<Proxy>,
    /// The client for the endpoint; `None` if the proxy or the authorities are invalid.
    pub client: Option<Client>,
    /// `None` if it is not valid in a header.
    pub api_key: Option<Secret>,
    /// The token as given; `doctor` reports if it is malformed.
    pub gateway_token: Option<Secret>,
    /// `None` if the contract does not allow it.
    pub sandbox_id: Option<String>,
    pub source: Option<Source>,
    /// The client for a controller on this machine.
    pub local: Option<Client>,
    pub interfaces: Option<Interfaces>,
    pub timeout: Duration,
}

impl<'a> Checked<'a> {
    /// Validates every setting; those that only sending needs, only if `sent`.
    #[must_use]
    pub fn new(settings: &'a Settings, source: &SourceArguments, sent: bool) -> Self {
        let mut problems = Vec::new();
        let deadline = Instant::now() + bounded::PATIENCE;
        let api_key = api_key(settings, deadline);
        let gateway_token = gateway_token(settings, deadline);
        let missing: Vec<_> = [
            (sent && settings.check_in_url.is_none(), env_vars::CHECKIN_URL),
            (sent && matches!(api_key, Ok(None)), env_vars::API_KEY),
            (sent && matches!(gateway_token, Ok(None)), env_vars::GATEWAY_TOKEN),
            (settings.sandbox_id.is_none(), env_vars::SANDBOX_ID),
        ]
        .into_iter()
        .filter_map(|(missing, name)| missing.then_some(name))
        .collect();
        if !missing.is_empty() {
            problems.push(ConfigError::Missing(missing));
        }
        let api_key = valid(api_key, &mut problems).flatten();
        let gateway_token = valid(gateway_token, &mut problems).flatten();
        let redactor = redactor(settings, &[&api_key, &gateway_token]);
        let api_key = api_key.filter(|key| {
            !sent || valid(header(key, "Bearer ", env_vars::API_KEY), &mut problems).is_some()
        });
        let sandbox_id = settings.sandbox_id.clone();
        let sandbox_id =
            sandbox_id.filter(|id| valid(check_sandbox_id(id), &mut problems).is_some());
        valid(check_ids(settings), &mut problems);

        let url = settings.check_in_url.as_deref().filter(|_| sent);
        let url = url.map(|text| url_of(text, env_vars::CHECKIN_URL, settings));
        let url = url.and_then(|url| valid(url, &mut problems));
        if url.as_ref().is_some_and(asks_for_dry_runs) {
            problems.push(ConfigError::DryRun);
        }
        let client =
            url.as_ref().and_then(|url| valid(client(url, settings, deadline), &mut problems));
        let (client, proxy) = client.unzip();

        let token = gateway_token.as_ref().filter(|token| token.header_value("").is_some());
        let source = valid(process_source(settings, source, token, &redactor), &mut problems);
        let local = source.as_ref().map(|source| local_client(source, settings, deadline));
        let local = local.and_then(|local| valid(local, &mut problems));
        let interfaces = Interfaces::new(&settings.net_interfaces).map_err(ConfigError::from);
        let interfaces = valid(interfaces, &mut problems);
        Self {
            settings,
            problems,
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
            timeout: Duration::from_secs(settings.timeout),
        }
    }

    /// The configuration, or all errors.
    pub fn config(mut self) -> Result<Config, ConfigError> {
        if let Some(token) = &self.gateway_token {
            valid(header(token, "", env_vars::GATEWAY_TOKEN), &mut self.problems);
        }
        let config = self.sandbox_id.as_deref().and_then(|id| self.config_of(id));
        match (config, <[ConfigError; 1]>::try_from(self.problems)) {
            (Some(config), Err(none)) if none.is_empty() => Ok(config),
            (_, Ok([problem])) => Err(problem),
            (_, Err(problems)) => Err(ConfigError::Several(problems)),
        }
    }

    /// The configuration with the endpoint and its credentials, or all errors.
    pub fn config_and_target(self) -> Result<(Config, Target), ConfigError> {
        let target = self.target(None);
        let config = self.config()?;
        // Unreachable: a missing part is an error above.
        let target = target.ok_or_else(|| ConfigError::Several(Vec::new()))?;
        Ok((config, target))
    }

    /// The configuration for this sandbox id; `None` if a part of it is invalid.
    #[must_use]
    pub fn config_of(&self, sandbox_id: &str) -> Option<Config> {
        let settings = self.settings;
        Some(Config {
            sandbox_id: sandbox_id.to_owned(),
            machine_id: settings.machine_id.clone(),
            controller_version: settings.controller_version.clone(),
            controller_commit: settings.controller_commit.clone(),
            interfaces: self.interfaces.clone()?,
            sources: Sources {
                proc_root: settings.proc_root.clone(),
                disk_path: settings.disk_path.clone(),
                openclaw_command: settings.openclaw_command.clone(),
                process: self.source.clone()?,
            },
            timeout: self.timeout,
            local: self.local.clone()?,
            redactor: self.redactor.clone(),
            warnings: warnings(settings),
        })
    }

    /// The endpoint and its credentials; `instead` replaces a missing or invalid credential.
    #[must_use]
    pub fn target(&self, instead: Option<&HeaderValue>) -> Option<Target> {
        let header = |secret: &Option<Secret>, prefix| secret.as_ref()?.header_value(prefix);
        Some(Target {
            url: self.url.clone()?,
            authorization: header(&self.api_key, "Bearer ").or_else(|| instead.cloned())?,
            gateway_token: header(&self.gateway_token, "").or_else(|| instead.cloned())?,
            client: self.client.clone()?,
            proxy: self.proxy.clone(),
        })
    }
}

/// Returns a valid value, and collects each error once: endpoint and controller share the file of authorities.
fn valid<T>(result: Result<T, ConfigError>, problems: &mut Vec<ConfigError>) -> Option<T> {
    let problem = match result {
        Ok(value) => return Some(value),
        Err(problem) => problem,
    };
    if !problems.iter().any(|other| other.to_string() == problem.to_string()) {
        problems.push(problem);
    }
    None
}

fn asks_for_dry_runs(url: &Uri) -> bool {
    url.query().is_some_and(|query| {
        query.split('&').any(|pair| pair.split('=').next() == Some(DRY_RUN_PARAMETER))
    })
}

fn process_source(
    settings: &Settings,
    source: &SourceArguments,
    gateway_token: Option<&Secret>,
    redactor: &Redactor,
) -> Result<Source, ConfigError> {
    Ok(match (&source.status_url, &source.systemd_unit) {
        (None, None) => Source::None,
        (None, Some(unit)) => Source::SystemdUnit(Unit::new(unit)?),
        (Some(status_url), None) => Source::StatusUrl(StatusSource {
            url: url_of(status_url, env_vars::STATUS_URL, settings)?,
            authorization: gateway_token
                .map(|token| header(token, "Bearer ", env_vars::GATEWAY_TOKEN))
                .transpose()?,
            redactor: redactor.clone(),
        }),
        (Some(_), Some(_)) => return Err(ConfigError::TwoSources),
    })
}

fn local_client(
    source: &Source,
    settings: &Settings,
    deadline: Instant,
) -> Result<Client, ConfigError> {
    let roots = match source {
        Source::StatusUrl(StatusSource { url, .. }) => roots(url, settings, deadline)?,
        Source::None | Source::SystemdUnit(_) => RootCerts::WebPki,
    };
    Ok(Client::new(Duration::from_secs(settings.timeout), roots, None))
}

/// The proxy for `url`, if it uses one.
fn proxy_to(url: &Uri, settings: &Settings) -> Result<Option<Proxy>, ConfigError> {
    let Some(proxy) = settings.https_proxy.as_ref().filter(|_| url.scheme_str() == Some("https"))
    else {
        return Ok(None);
    };
    let proxy = parse_proxy(proxy)?;
    let bypassed = settings.no_proxy.as_deref().is_some_and(|list| no_proxy::covers(list, url));
    Ok(Some(proxy).filter(|_| !bypassed))
}

/// Warnings that prevent no check-in.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    let list = settings.no_proxy.as_deref().filter(|_| settings.https_proxy.is_some());
    let odd = list.map(no_proxy::not_understood).unwrap_or_default();
    let warning = |number| {
        format!(
            "entry {number} of {} is not honoured: it is no host, address or network",
            env_vars::NO_PROXY
        )
    };
    odd.into_iter().map(warning).collect()
}

impl DaemonArguments {
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing {
            initial_delay: Duration::from_secs(self.initial_delay),
            interval: Duration::from_secs(self.interval),
            jitter_percent: self.jitter,
        }
    }
}

/// The sandbox id in [`ConfigError::Id`]: it can come from a variable or an argument.
pub(crate) const THE_SANDBOX_ID: &str = "the sandbox id";

/// Validates a sandbox id against the contract.
pub fn check_sandbox_id(sandbox_id: &str) -> Result<(), ConfigError> {
    if !(1..=MAX_SANDBOX_ID_BYTES).contains(&sandbox_id.len()) {
        return Err(ConfigError::SandboxId);
    }
    check_id(THE_SANDBOX_ID, sandbox_id)
}

/// Rejects stray characters in an id or version: `sandbox-1` with a line end would be another sandbox.
fn check_id(what: &'static str, id: &str) -> Result<(), ConfigError> {
    let quote = |c| matches!(c, '"' | '\'' | '`');
    let faults = [
        (id.contains('\r'), "a carriage return, as from a file with the line ends of Windows"),
        (id.trim() != id, "white space at an end"),
        (has_control_characters(id), "control characters inside"),
        (
            id.starts_with(quote) || id.ends_with(quote),
            "quotation marks at an end, which only a shell would take off",
        ),
    ];
    let fault = faults.into_iter().find(|(is, _)| *is);
    fault.map_or(Ok(()), |(_, fault)| Err(ConfigError::Id { what, fault }))
}

fn check_ids(settings: &Settings) -> Result<(), ConfigError> {
    let machine_id = settings.machine_id.as_deref().unwrap_or_default();
    check_id(env_vars::MACHINE_ID, machine_id)?;
    check_id(env_vars::CONTROLLER_VERSION, &settings.controller_version)?;
    check_id(env_vars::CONTROLLER_COMMIT, &settings.controller_commit)
}

fn header(secret: &Secret, prefix: &str, name: &'static str) -> Result<HeaderValue, ConfigError> {
    secret.header_value(prefix).ok_or(ConfigError::NotAHeader(name))
}

/// Parses a URL without user and password, so that it can be printed.
fn url_of(text: &str, name: &'static str, settings: &Settings) -> Result<Uri, ConfigError> {
    let url = parse_url(text).ok_or(ConfigError::Url(name))?;
    if http::is_exposed(&url) && !settings.allow_insecure_http {
        return Err(ConfigError::InsecureHttp(name));
    }
    Ok(url)
}

fn parse_url(text: &str) -> Option<Uri> {
    let url: Uri = text.trim().parse().ok()?;
    let http = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url.host().is_some_and(|host| !host.is_empty());
    // Anywhere in the URL: after a slash, a password looks like a part of the path.
    let user = text.contains('@');
    (http && host && !user).then_some(url)
}

/// The client for `url`, and its proxy, if it uses one. Files must be read by `deadline`.
pub(crate) fn client(
    url: &Uri,
    settings: &Settings,
    deadline: Instant,
) -> Result<(Client, Option<Proxy>), ConfigError> {
    let proxy = proxy_to(url, settings)?;
    let timeout = Duration::from_secs(settings.timeout);
    Ok((Client::new(timeout, roots(url, settings, deadline)?, proxy.clone()), proxy))
}

/// The authorities for `url`. http needs none, and loading the system's takes time.
fn roots(url: &Uri, settings: &Settings, deadline: Instant) -> Result<RootCerts, ConfigError> {
    if url.scheme_str() != Some("https") {
        return Ok(RootCerts::WebPki);
    }
    let Some(path) = &settings.ca_file else { return Ok(http::system_roots()) };
    let pem = bounded::read(path, MAX_CA_BYTES, deadline);
    let pem = pem.map_err(|error| ConfigError::Unreadable {
        variable: env_vars::CA_FILE,
        path: path.clone(),
        error,
    })?;
    http::roots_in(&pem).ok_or_else(|| ConfigError::NoCertificate(path.clone()))
}

fn parse_proxy(url: &Secret) -> Result<Proxy, ConfigError> {
    let parsed = Proxy::new(url.expose()).map_err(|_| ConfigError::Proxy)?;
    // SOCKS proxies need a feature that is not compiled in.
    if !matches!(parsed.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
        || parsed.host().is_empty()
    {
        return Err(ConfigError::Proxy);
    }
    Ok(parsed)
}

/// Removes the credentials as `read` and as given, and the proxy's password.
fn redactor(settings: &Settings, read: &[&Option<Secret>]) -> Redactor {
    let proxy = settings.https_proxy.as_ref().and_then(|url| Proxy::new(url.expose()).ok());
    let password = proxy.and_then(|proxy| proxy.password().map(Secret::new));
    let given = [&settings.api_key, &settings.gateway_token, &password];
    Redactor::new(read.iter().copied().chain(given).flatten().cloned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use proptest::prelude::*;

    use crate::cli::{Cli, Command};

    use super::*;

    #[test]
    fn accepts_full_http_urls() {
        for text in [
            "http://127.0.0.1:8787/api/controller/checkin",
            "https://telemetry.example.com/api/controller/checkin",
            "https://[::1]/",
            " https://example.com\n",
        ] {
            assert!(parse_url(text).is_some(), "{text}");
        }
    }

    #[test]
    fn rejects_other_urls() {
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
            "https://user:pass/word@example.com/",
            "https://exa mple.com/",
        ] {
            assert_eq!(parse_url(text), None, "{text}");
        }
    }

    #[test]
    fn a_sandbox_id_has_1_to_96_bytes() {
        assert!(check_sandbox_id("s").is_ok());
        assert!(check_sandbox_id(&"s".repeat(96)).is_ok());
        for id in ["", &"s".repeat(97), &"ü".repeat(49)] {
            assert!(check_sandbox_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn rejects_a_sandbox_id_with_stray_characters() {
        for id in ["s", "sandbox-1", "a b", "J\u{fc}rgen's", "a\"b"] {
            assert!(check_sandbox_id(id).is_ok(), "{id:?}");
        }
        for (id, fault) in [
            ("s\r", "carriage return"),
            ("s\r\n", "carriage return"),
            ("s\n", "white space at an end"),
            (" s", "white space at an end"),
            ("s\u{a0}", "white space at an end"),
            ("a\u{1b}b", "control characters inside"),
            ("a\nb", "control characters inside"),
            ("\"s\"", "quotation marks"),
            ("s'", "quotation marks"),
        ] {
            let error = check_sandbox_id(id).unwrap_err().to_string();
            assert!(error.starts_with("the sandbox id has ") && error.contains(fault), "{error}");
        }
    }

    #[test]
    fn detects_a_dry_run_parameter_in_the_url() {
        for url in ["http://h/?dry_run=1", "http://h/?a=b&dry_run", "http://h/?dry_run=0"] {
            assert!(asks_for_dry_runs(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://h/", "http://h/?a=dry_run", "http://h/dry_run=1?adry_run=1"] {
            assert!(!asks_for_dry_runs(&url.parse().unwrap()), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let arguments = [
            "kiloclaw-agent",
            "once",
            "--checkin-url=https://telemetry.example.com/",
            "--status-url=http://127.0.0.1/",
            "--api-key=hunter2-key",
            "--gateway-token=hunter2-token",
            "--https-proxy=http://me:hunter2-proxy@proxy:3128",
            "--sandbox-id=sandbox-1",
        ];
        let cli = Cli::try_parse_from(arguments).unwrap();
        let shown = format!("{cli:?}");
        let Command::Once(once) = cli.command else { panic!("{shown}") };
        let checked = Checked::new(&once.settings, &once.source, true);
        let shown = format!("{shown} {checked:?}");
        let (config, target) = checked.config_and_target().unwrap();
        assert!(target.proxy.is_some());
        let shown = format!("{shown} {config:?} {target:?}");
        // The base64 of `me:hunter2-proxy`, which is in the proxy's header, is a secret as well.
        for secret in ["hunter2", "bWU6aHVudGVyMi1wcm94eQ"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    fn proxy(url: &str) -> Result<Proxy, ConfigError> {
        parse_proxy(&Secret::new(url))
    }

    #[test]
    fn a_proxy_is_a_url_or_a_host_and_a_port() {
        for url in ["http://proxy:3128", "https://proxy.example.com", "proxy:3128", "10.0.0.1:80"] {
            assert!(proxy(url).is_ok(), "{url}");
        }
        let with_password = proxy("http://me:p%40ss@proxy:3128").unwrap();
        assert_eq!(with_password.password(), Some("p@ss"));
        for url in ["", "socks5://proxy:1080", "ftp://proxy", "http://", "http:///"] {
            assert!(matches!(proxy(url), Err(ConfigError::Proxy)), "{url}");
        }
    }

    #[test]
    fn a_secret_is_read_from_its_file_then_its_value_then_systemd() {
        let directory = tempfile::tempdir().unwrap();
        let names = (env_vars::API_KEY, env_vars::API_KEY_FILE);
        let file = directory.path().join("file");
        fs::write(&file, " from-file\n").unwrap();
        fs::write(directory.path().join(env_vars::API_KEY), "from-systemd\n").unwrap();
        let value = Secret::new("from-value");
        let read = |file: Option<&Path>, value: Option<&Secret>, systemd: Option<&Path>| {
            let deadline = Instant::now() + bounded::PATIENCE;
            let secret = secret(file, value, systemd, names, deadline)?;
            Ok::<_, ConfigError>(secret.map(|secret| secret.expose().to_owned()))
        };
        let systemd = Some(directory.path());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(read(Some(&file), Some(&value), systemd).unwrap(), text("from-file"));
        assert_eq!(read(None, Some(&value), systemd).unwrap(), text("from-value"));
        assert_eq!(read(None, None, systemd).unwrap(), text("from-systemd"));
        assert_eq!(read(None, None, Some(Path::new("/nowhere"))).unwrap(), None);
        assert_eq!(read(None, None, None).unwrap(), None);
        // A configured file that does not exist is an error; there is no fallback.
        let error = read(Some(Path::new("/nowhere")), Some(&value), None).unwrap_err();
        assert!(error.to_string().starts_with("KILOCODE_API_KEY_FILE: cannot read /nowhere: "));
        fs::write(&file, "\n").unwrap();
        assert_eq!(read(Some(&file), None, None).unwrap(), None, "empty is missing");
    }

    proptest! {
        #[test]
        fn parsing_a_url_never_panics(text: String) {
            let _ = parse_url(&text);
            let _ = proxy(&text);
        }
    }
}
