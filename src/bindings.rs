//! The one place that names bindings, secrets and variables, and reads them.

use std::cell::{OnceCell, RefCell};
use std::fmt;

use js_sys::Reflect;
use kiloclaw_auth::{access, jwt};
use kiloclaw_check_in::{AcceptedKeys, GatewaySecrets};
use kiloclaw_fleet::list;
use kiloclaw_json::Value;
use kiloclaw_watch::{SettingError, Settings, Target, read_heartbeat};
use wasm_bindgen::prelude::*;

use crate::log;

const API_KEY: &str = "KILOCODE_API_KEY";
const API_KEY_JWT_SECRET: &str = "KILOCODE_API_KEY_JWT_SECRET";
const API_KEY_JWT_ISSUER: &str = "KILOCODE_API_KEY_JWT_ISSUER";
const API_KEY_JWT_AUDIENCE: &str = "KILOCODE_API_KEY_JWT_AUDIENCE";
const GATEWAY_TOKEN_SECRET: &str = "GATEWAY_TOKEN_SECRET";
const DATASET: &str = "KILOCLAW_CONTROLLER_AE";
const REVOKED_SANDBOXES: &str = "REVOKED_SANDBOXES";
const RATE_LIMITER: &str = "CHECKIN_RATE_LIMITER";
const JWT_SECRET: &str = "JWT_SECRET";
const JWT_ISSUER: &str = "JWT_ISSUER";
const JWT_AUDIENCE: &str = "JWT_AUDIENCE";
const INTERNAL_API_SECRET: &str = "INTERNAL_API_SECRET";
const ACCESS_TEAM_DOMAIN: &str = "ACCESS_TEAM_DOMAIN";
const ACCESS_AUD: &str = "ACCESS_AUD";
const WATCHER: &str = "WATCHER";
const WATCHER_DATASET: &str = "KILOCLAW_WATCHER_AE";

/// The optional Worker to which accepted check-ins are forwarded.
pub(crate) const FORWARD: &str = "FORWARD";
pub(crate) const AE_ACCOUNT_ID: &str = "AE_ACCOUNT_ID";
pub(crate) const AE_API_TOKEN: &str = "AE_API_TOKEN";
pub(crate) const AE_SQL_URL: &str = "AE_SQL_URL";

/// The audience of operators' tokens unless `JWT_AUDIENCE` is set. `harness/token.ts` has the same.
const DEFAULT_AUDIENCE: &str = "kiloclaw-telemetry";

/// The log warns about shorter values, in bytes: nobody can guess 16 random bytes.
const SHORT_VALUE: usize = 16;

/// The same for secrets that sign tokens: whoever has a token can try values offline. RFC 7518, 3.2, demands at least
/// the size of the hash.
const SHORT_JWT_SECRET: usize = 32;

#[wasm_bindgen]
extern "C" {
    /// The Worker's bindings, secrets and variables, as the runtime passes them.
    #[derive(Clone, Debug)]
    pub type Env;
}

#[wasm_bindgen(module = "/src/bindings.js")]
extern "C" {
    /// The text of a secret or variable, if there is one of this name.
    fn variable(env: &Env, name: &str) -> Option<String>;
}

/// A binding, secret or variable is unusable. Its name goes to the log and to operators, never to machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) name: &'static str,
    pub(crate) fault: &'static str,
}

impl ConfigError {
    /// The bindings were not read yet. No request gets that far.
    pub(crate) const NOT_READ: Self = Self { name: "every binding", fault: "has not been read" };

    const fn missing(name: &'static str) -> Self {
        Self { name, fault: "is missing or empty" }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.fault)
    }
}

/// What a check-in needs: accepted credentials, and the dataset.
pub(crate) struct Ingest {
    pub(crate) api_keys: AcceptedKeys,
    /// What a token that a machine presents as its API key must match, if tokens are accepted.
    pub(crate) api_key_tokens: Option<jwt::Settings>,
    pub(crate) gateway: GatewaySecrets,
    pub(crate) dataset: JsValue,
    /// Ids of sandboxes whose check-ins are refused. They are not secret, and few: a variable holds 5 kB.
    pub(crate) revoked: Vec<String>,
    pub(crate) limiter: Option<JsValue>,
}

impl Ingest {
    /// Reads three required and three optional bindings. The error names the unusable one.
    pub(crate) fn read(env: &Env) -> Result<Self, ConfigError> {
        let required = |name| secret(env, name, SHORT_VALUE)?.ok_or(ConfigError::missing(name));
        let api_keys = AcceptedKeys::new(&required(API_KEY)?, &blinding_key()?)
            .map_err(|_| ConfigError::missing(API_KEY))?;
        if let Err(shared) = check_separate(env, API_KEY) {
            warn_once("shared_secret", shared.to_string());
        }
        let api_key_tokens = api_key_tokens(env)?;
        let gateway = GatewaySecrets::new(&required(GATEWAY_TOKEN_SECRET)?)
            .map_err(|_| ConfigError::missing(GATEWAY_TOKEN_SECRET))?;
        let dataset = binding(env, DATASET).ok_or(ConfigError::missing(DATASET))?;
        let revoked = revoked(&optional(env, REVOKED_SANDBOXES).unwrap_or_default())?;
        let limiter = binding(env, RATE_LIMITER);
        Ok(Self { api_keys, api_key_tokens, gateway, dataset, revoked, limiter })
    }
}

/// The kinds of credentials that are configured for the operators' API; at least one.
pub(crate) struct AuthSettings {
    pub(crate) internal: Option<AcceptedKeys>,
    pub(crate) jwt: Option<jwt::Settings>,
    pub(crate) access: Option<access::Settings>,
}

impl AuthSettings {
    /// Reads what is set. If nothing is, the error names `JWT_SECRET`.
    pub(crate) fn read(env: &Env) -> Result<Self, ConfigError> {
        let internal = secret(env, INTERNAL_API_SECRET, SHORT_VALUE)?
            .map(|secret| {
                AcceptedKeys::new(&secret, &blinding_key()?)
                    .map_err(|_| ConfigError::missing(INTERNAL_API_SECRET))
            })
            .transpose()?;
        let mut jwt = jwt_settings(env, [JWT_SECRET, JWT_ISSUER, JWT_AUDIENCE])?;
        if let Some(jwt) = &mut jwt {
            jwt.audience.get_or_insert_with(|| DEFAULT_AUDIENCE.to_owned());
        }
        // Checks for a shared secret, which closes this API, too.
        api_key_tokens(env)?;
        let access = access_settings(env)?;
        if internal.is_none() && jwt.is_none() && access.is_none() {
            return Err(ConfigError::missing(JWT_SECRET));
        }
        Ok(Self { internal, jwt, access })
    }
}

/// What the watcher needs besides Analytics Engine.
pub(crate) struct WatcherConfig {
    pub(crate) settings: Settings,
    /// The configured channels.
    pub(crate) targets: Vec<Target>,
    /// The dead-man URL, if there is one.
    pub(crate) heartbeat: Option<String>,
    /// The dataset of canaries.
    pub(crate) canaries: Result<JsValue, ConfigError>,
    pub(crate) errors: Vec<SettingError>,
}

/// `SILENT_AFTER` in seconds, so that reports agree with the watcher.
pub(crate) fn silent_after(env: &Env) -> u64 {
    Settings::read_silent_after(&|name| optional(env, name))
}

impl WatcherConfig {
    /// Reads what is set.
    pub(crate) fn read(env: &Env) -> Self {
        let variable = |name| optional(env, name);
        let (settings, mut errors) = Settings::read(&variable);
        let targets = Target::read(&variable, &mut errors);
        let heartbeat = read_heartbeat(&variable, &mut errors);
        let canaries = binding(env, WATCHER_DATASET).ok_or(ConfigError::missing(WATCHER_DATASET));
        Self { settings, targets, heartbeat, canaries, errors }
    }
}

/// The namespace of the watcher's object.
pub(crate) fn watcher_namespace(env: &Env) -> Result<JsValue, ConfigError> {
    binding(env, WATCHER).ok_or(ConfigError::missing(WATCHER))
}

/// The binding, secret or variable with this name.
fn binding(env: &Env, name: &str) -> Option<JsValue> {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    Reflect::get(env, &name.into()).ok().filter(|binding| !binding.is_undefined())
}

/// What machines' tokens must match, if `KILOCODE_API_KEY_JWT_SECRET` is set.
fn api_key_tokens(env: &Env) -> Result<Option<jwt::Settings>, ConfigError> {
    let names = [API_KEY_JWT_SECRET, API_KEY_JWT_ISSUER, API_KEY_JWT_AUDIENCE];
    let settings = jwt_settings(env, names)?;
    if settings.is_some() {
        check_separate(env, API_KEY_JWT_SECRET)?;
    }
    Ok(settings)
}

/// Checks that operators have no value of this secret of machines, with which others could read the fleet.
fn check_separate(env: &Env, name: &'static str) -> Result<(), ConfigError> {
    let machines = optional(env, name).unwrap_or_default();
    // HMAC pads keys with zeros.
    let is_machines = |value: &str| {
        values(&machines).any(|key| key.trim_end_matches('\0') == value.trim_end_matches('\0'))
    };
    for operators in [JWT_SECRET, INTERNAL_API_SECRET] {
        let operators = optional(env, operators).unwrap_or_default();
        if values(&operators).any(is_machines) {
            let fault = "has a value of JWT_SECRET or INTERNAL_API_SECRET: whoever has machines' secret could read the \
                         fleet. Use another secret";
            return Err(ConfigError { name, fault });
        }
    }
    Ok(())
}

/// The settings for tokens, from a secret, an issuer and an audience, if the secret is set.
fn jwt_settings(env: &Env, names: [&'static str; 3]) -> Result<Option<jwt::Settings>, ConfigError> {
    let [name, issuer, audience] = names;
    let Some(secret) = secret(env, name, SHORT_JWT_SECRET)? else { return Ok(None) };
    let secrets = list(values(&secret).map(str::to_owned));
    if secrets.is_empty() {
        return Err(ConfigError::missing(name));
    }
    let (issuer, audience) = (optional(env, issuer), optional(env, audience));
    Ok(Some(jwt::Settings { secrets, issuer, audience }))
}

/// Reads both variables or neither: with only one of them, somebody would believe that Access works.
fn access_settings(env: &Env) -> Result<Option<access::Settings>, ConfigError> {
    match (text(env, ACCESS_TEAM_DOMAIN), text(env, ACCESS_AUD)) {
        (Ok(domain), Ok(audience)) => {
            let fault = "is not a team's domain";
            let origin = origin(&domain).ok_or(ConfigError { name: ACCESS_TEAM_DOMAIN, fault })?;
            Ok(Some(access::Settings { origin, audience }))
        }
        (Err(_), Err(_)) => Ok(None),
        (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => Err(missing),
    }
}

/// Whether this host, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    ["127.0.0.1", "localhost"].contains(&name) && port.parse::<u16>().is_ok()
}

/// The origin of a domain with or without a scheme, which is HTTPS except for a server on this machine.
fn origin(domain: &str) -> Option<String> {
    let domain = domain.to_ascii_lowercase();
    let (scheme, host) = domain.split_once("://").unwrap_or(("https", &domain));
    let host = host.strip_suffix('/').unwrap_or(host);
    let is_right = match scheme {
        "https" => is_domain(host),
        "http" => is_loopback(host),
        _ => false,
    };
    is_right.then(|| format!("{scheme}://{host}"))
}

/// Whether this is a domain of several labels, without a port.
fn is_domain(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.contains('.') && host.split('.').all(is_label)
}

/// The ids in a list: separated by commas, or a JSON array if an id has a comma or white space.
fn revoked(text: &str) -> Result<Vec<String>, ConfigError> {
    // Such an id is a mistake: it would revoke no sandbox, and nobody would notice.
    let is_odd = |id: &str| id.contains(['"', '“', '”', '\n', '\r', ';', '{', '}', '\u{feff}']);
    if !text.starts_with('[') {
        if values(text).any(is_odd) {
            let fault = "has an id with quotes, braces, semicolons or line ends: separate ids by commas, or \
                         write a JSON array such as [\"sandbox-1\", \"a; b\"]";
            return Err(ConfigError { name: REVOKED_SANDBOXES, fault });
        }
        return Ok(list(values(text).map(str::to_owned)));
    }
    let mut ids = Vec::new();
    let fault =
        "begins with [ but is not a JSON array of strings such as [\"sandbox-1\", \"a, b\"]";
    let invalid = ConfigError { name: REVOKED_SANDBOXES, fault };
    let Value::List(values) = Value::parse(text) else { return Err(invalid) };
    for value in values {
        let Value::Text(id) = value else { return Err(invalid) };
        ids.push(id);
    }
    Ok(ids)
}

/// The values of a secret, split as in `kiloclaw_check_in`.
fn values(secret: &str) -> impl Iterator<Item = &str> {
    secret.split(',').map(str::trim).filter(|value| !value.is_empty())
}

/// A secret, if there is one. A value of fewer bytes than `short` is accepted, but each isolate logs one warning: a
/// comma within a value splits it in two, and nobody would notice.
fn secret(env: &Env, name: &'static str, short: usize) -> Result<Option<String>, ConfigError> {
    let Some(secret) = optional(env, name) else { return Ok(None) };
    if let [b'[', .., b']'] = secret.as_bytes() {
        let fault = "is a JSON array: separate values by commas, without brackets and quotes";
        return Err(ConfigError { name, fault });
    }
    if values(&secret).any(|value| value.len() < short) {
        let detail = format!(
            "{name} has a value of less than {short} bytes; values are separated by commas. \
             `openssl rand -hex 32` makes one"
        );
        warn_once("short_secret", detail);
    }
    Ok(Some(secret))
}

/// Logs a warning, unless this isolate has logged it.
fn warn_once(code: &'static str, detail: String) {
    thread_local! {
        static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }
    LOGGED.with_borrow_mut(|logged| {
        if !logged.contains(&detail) {
            log::warn(code, &detail);
            logged.push(detail);
        }
    });
}

fn optional(env: &Env, name: &'static str) -> Option<String> {
    text(env, name).ok()
}

/// A secret or variable without surrounding white space. An empty one counts as missing.
pub(crate) fn text(env: &Env, name: &'static str) -> Result<String, ConfigError> {
    let value = variable(env, name).unwrap_or_default();
    let value = value.trim();
    if value.is_empty() { Err(ConfigError::missing(name)) } else { Ok(value.to_owned()) }
}

/// The random key with which this isolate blinds its comparisons.
fn blinding_key() -> Result<[u8; 32], ConfigError> {
    thread_local! {
        static KEY: OnceCell<[u8; 32]> = const { OnceCell::new() };
    }
    KEY.with(|cell| {
        if let Some(key) = cell.get() {
            return Ok(*key);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|_| ConfigError { name: "the runtime's random source", fault: "failed" })?;
        Ok(*cell.get_or_init(|| key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_domain_with_and_without_its_scheme() {
        for domain in [
            "team.cloudflareaccess.com",
            "https://team.cloudflareaccess.com/",
            "Team.CloudflareAccess.com",
        ] {
            assert_eq!(origin(domain).unwrap(), "https://team.cloudflareaccess.com", "{domain}");
        }
        for (domain, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost/", "http://localhost"),
        ] {
            assert_eq!(origin(domain).unwrap(), expected);
        }
    }

    #[test]
    fn takes_nothing_else() {
        for domain in [
            "",
            "team",
            "https://",
            "http://",
            "://x.y",
            "team.cloudflareaccess.com/x",
            ".com",
            "x.",
            "a..b",
            "http://team.cloudflareaccess.com",
            "http://127.0.0.1.example.com",
            "http://127.0.0.1:x",
            "http://127.0.0.1:",
            "http://127.0.0.1@example.com",
            "ftp://team.cloudflareaccess.com",
            "https://user@x.y",
            "https://x.y?z",
            "https://x.y#z",
            "x.y:443",
            "x y.z",
            "https://https://x.y",
            "127.0.0.1:8080",
            "é.com",
        ] {
            assert_eq!(origin(domain), None, "{domain}");
        }
    }

    #[test]
    fn sandboxes_are_revoked_between_commas_or_in_an_array() {
        let ids = |text: &str| revoked(text).unwrap();
        assert_eq!(ids(""), [""; 0]);
        assert_eq!(ids(" , "), [""; 0]);
        assert_eq!(ids("b, a ,,c d"), ["b", "a", "c d"]);
        assert_eq!(ids("[]"), [""; 0]);
        assert_eq!(ids(r#"["a, b", " c ", "\u0064"]"#), ["a, b", " c ", "d"]);
    }

    #[test]
    fn rejects_a_malformed_array_of_ids() {
        for text in
            ["[", "[a, b]", r#"["a""#, r#"["a", 1]"#, r#"["a"], "b""#, r#"["a",]"#, "[null]"]
        {
            let error = revoked(text).unwrap_err();
            assert_eq!(error.name, REVOKED_SANDBOXES, "{text}");
        }
    }
}
