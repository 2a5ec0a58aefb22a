//! The bindings and secrets: the one place that names them and reads them.

use std::cell::OnceCell;
use std::fmt;

use kiloclaw_checkin::{AcceptedKeys, GatewaySecrets};
use worker::Env;
use worker::js_sys::Reflect;
use worker::wasm_bindgen::JsValue;

use crate::analytics::Analytics;

/// Where the accounts are whose Analytics Engine can be asked.
const CLOUD: &str = "https://api.cloudflare.com/client/v4/accounts";

const API_KEY: &str = "KILOCODE_API_KEY";
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

const AE_ACCOUNT_ID: &str = "AE_ACCOUNT_ID";
const AE_API_TOKEN: &str = "AE_API_TOKEN";
const AE_SQL_URL: &str = "AE_SQL_URL";

/// The audience of operators' tokens where `JWT_AUDIENCE` names no other. `tools/token.ts` has the same.
const DEFAULT_AUDIENCE: &str = "kiloclaw-telemetry";

/// A binding, secret or variable that cannot be used. Its name is for the log and for operators, not for
/// machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) name: &'static str,
    fault: &'static str,
}

impl Unusable {
    /// The bindings were not read yet: no request gets that far.
    pub(crate) const NOT_READ: Self = Self { name: "every binding", fault: "has not been read" };

    const fn missing(name: &'static str) -> Self {
        Self { name, fault: "is missing or empty" }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.fault)
    }
}

/// What a check-in needs: who is accepted, and where its data point goes.
pub(crate) struct Ingest {
    pub(crate) api_keys: AcceptedKeys,
    pub(crate) gateway: GatewaySecrets,
    pub(crate) dataset: JsValue,
    /// Sandboxes that are refused, if there are any.
    pub(crate) revoked: Option<AcceptedKeys>,
    /// How often a sandbox may check in, if that is limited.
    pub(crate) limiter: Option<JsValue>,
}

impl Ingest {
    /// Reads the three bindings that must be there and the two that may be, or says which one cannot be
    /// used.
    pub(crate) fn read(env: &Env) -> Result<Self, Unusable> {
        let api_keys = AcceptedKeys::new(&text(env, API_KEY)?, &blinding_key()?)
            .map_err(|_| Unusable::missing(API_KEY))?;
        let gateway = GatewaySecrets::new(&text(env, GATEWAY_TOKEN_SECRET)?)
            .map_err(|_| Unusable::missing(GATEWAY_TOKEN_SECRET))?;
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let dataset = env.analytics_engine(DATASET).map_err(|_| Unusable::missing(DATASET))?.into();
        let revoked = optional(env, REVOKED_SANDBOXES)
            .map(|ids| Ok(AcceptedKeys::new(&ids, &blinding_key()?).ok()))
            .transpose()?
            .flatten();
        let limiter = Reflect::get(env, &RATE_LIMITER.into()).ok();
        let limiter = limiter.filter(|limiter| !limiter.is_undefined());
        Ok(Self { api_keys, gateway, dataset, revoked, limiter })
    }
}

/// The ways through the gate that are open. At least one is.
pub(crate) struct Gate {
    pub(crate) internal: Option<AcceptedKeys>,
    pub(crate) jwt: Option<Jwt>,
    pub(crate) access: Option<Access>,
}

impl Gate {
    /// Reads what is set, or says what cannot be used. With nothing set, that is `JWT_SECRET`.
    pub(crate) fn read(env: &Env) -> Result<Self, Unusable> {
        let internal = optional(env, INTERNAL_API_SECRET)
            .map(|secret| {
                AcceptedKeys::new(&secret, &blinding_key()?)
                    .map_err(|_| Unusable::missing(INTERNAL_API_SECRET))
            })
            .transpose()?;
        let jwt = optional(env, JWT_SECRET).map(|secret| Jwt::read(env, &secret)).transpose()?;
        let access = Access::read(env)?;
        if internal.is_none() && jwt.is_none() && access.is_none() {
            return Err(Unusable::missing(JWT_SECRET));
        }
        Ok(Self { internal, jwt, access })
    }
}

/// What the operators' own tokens are judged by.
pub(crate) struct Jwt {
    /// At least one.
    pub(crate) secrets: Vec<String>,
    pub(crate) issuer: Option<String>,
    /// Always one: whatever else the secret signs is for somebody else.
    pub(crate) audience: String,
}

impl Jwt {
    /// Takes the secret's comma-separated values, the audience and, if it is set, the issuer to insist on.
    fn read(env: &Env, secret: &str) -> Result<Self, Unusable> {
        let values = secret.split(',').map(str::trim).filter(|value| !value.is_empty());
        let secrets: Vec<_> = values.map(str::to_owned).collect();
        if secrets.is_empty() {
            return Err(Unusable::missing(JWT_SECRET));
        }
        Ok(Self {
            secrets,
            issuer: optional(env, JWT_ISSUER),
            audience: optional(env, JWT_AUDIENCE).unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned()),
        })
    }
}

impl Analytics {
    /// Reads the token, and where to ask: `AE_SQL_URL`, or the cloud's with the account.
    pub(crate) fn read(env: &Env) -> Result<Self, Unusable> {
        let token = text(env, AE_API_TOKEN)?;
        let url = match text(env, AE_SQL_URL) {
            Ok(url) if is_url(&url) => url,
            Ok(_) => {
                let fault = "is not the https:// URL of an SQL endpoint";
                return Err(Unusable { name: AE_SQL_URL, fault });
            }
            Err(_) => format!("{CLOUD}/{}/analytics_engine/sql", text(env, AE_ACCOUNT_ID)?),
        };
        Ok(Self { url, token })
    }
}

/// Whether a secret may be sent to this URL: by HTTPS, or to this machine.
fn is_url(url: &str) -> bool {
    let host = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    match url.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty(),
        Some(("http", rest)) => is_loopback(&host(rest)),
        _ => false,
    }
}

/// Whether this is a host of this machine, with or without a port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    ["127.0.0.1", "localhost"].contains(&name) && port.parse::<u16>().is_ok()
}

/// What the tokens of Cloudflare Access are judged by.
pub(crate) struct Access {
    /// Who issues the tokens, and where the keys are.
    pub(crate) origin: String,
    pub(crate) audience: String,
}

impl Access {
    /// Reads both variables or neither: one alone would be a way that somebody thinks is open.
    fn read(env: &Env) -> Result<Option<Self>, Unusable> {
        match (text(env, ACCESS_TEAM_DOMAIN), text(env, ACCESS_AUD)) {
            (Ok(domain), Ok(audience)) => {
                let fault = "is not a team's domain";
                let origin = origin(&domain).ok_or(Unusable { name: ACCESS_TEAM_DOMAIN, fault })?;
                Ok(Some(Self { origin, audience }))
            }
            (Err(_), Err(_)) => Ok(None),
            (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => Err(missing),
        }
    }
}

/// The origin of a domain, with or without its scheme: HTTPS, except for a server on this machine.
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

/// Whether this names a host as a team's is: of several labels, without a port.
fn is_domain(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.contains('.') && host.split('.').all(is_label)
}

/// A secret or variable that may be left out.
fn optional(env: &Env, name: &'static str) -> Option<String> {
    text(env, name).ok()
}

/// A secret or variable, without the white space around it; an empty one is as good as none.
fn text(env: &Env, name: &'static str) -> Result<String, Unusable> {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let value = env.secret(name).map_err(|_| Unusable::missing(name))?.to_string();
    let value = value.trim();
    if value.is_empty() { Err(Unusable::missing(name)) } else { Ok(value.to_owned()) }
}

/// The key that this isolate blinds its comparisons with: drawn once, known to nobody.
fn blinding_key() -> Result<[u8; 32], Unusable> {
    thread_local! {
        static KEY: OnceCell<[u8; 32]> = const { OnceCell::new() };
    }
    KEY.with(|cell| {
        if let Some(key) = cell.get() {
            return Ok(*key);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|_| Unusable { name: "the runtime's random source", fault: "failed" })?;
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
    fn a_secret_is_sent_by_https_or_to_this_machine() {
        for url in
            ["https://x.y/sql", "https://x:1", "http://127.0.0.1:9310/sql?a", "http://localhost"]
        {
            assert!(is_url(url), "{url}");
        }
        for url in [
            "",
            "sql",
            "https://",
            "https:///sql",
            "http://x.y/sql",
            "http://127.0.0.1@x.y",
            "ftp://x.y",
            "http://",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }
}
