//! The bindings and secrets: the one place that names them and reads them.

use std::cell::OnceCell;
use std::fmt;

use kiloclaw_checkin::{AcceptedKeys, GatewaySecrets};
use worker::Env;
use worker::wasm_bindgen::JsValue;

use crate::analytics::Analytics;

/// Where the accounts are whose Analytics Engine can be asked.
const CLOUD: &str = "https://api.cloudflare.com/client/v4/accounts";

const API_KEY: &str = "KILOCODE_API_KEY";
const GATEWAY_TOKEN_SECRET: &str = "GATEWAY_TOKEN_SECRET";
const DATASET: &str = "KILOCLAW_CONTROLLER_AE";
const JWT_SECRET: &str = "JWT_SECRET";
const JWT_ISSUER: &str = "JWT_ISSUER";
const JWT_AUDIENCE: &str = "JWT_AUDIENCE";
const INTERNAL_API_SECRET: &str = "INTERNAL_API_SECRET";
const ACCESS_TEAM_DOMAIN: &str = "ACCESS_TEAM_DOMAIN";
const ACCESS_AUD: &str = "ACCESS_AUD";

const AE_ACCOUNT_ID: &str = "AE_ACCOUNT_ID";
const AE_API_TOKEN: &str = "AE_API_TOKEN";
const AE_SQL_URL: &str = "AE_SQL_URL";

/// A binding or secret that is missing or empty. Its name is for the log, not for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unusable(&'static str);

impl Unusable {
    /// The bindings were not read yet: no request gets that far.
    pub(crate) const NOT_READ: Self = Self("every binding");

    /// Its name, for those who may know: operators.
    pub(crate) const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing or empty", self.0)
    }
}

/// What a check-in needs: who is accepted, and where its data point goes.
pub(crate) struct Ingest {
    pub(crate) api_keys: AcceptedKeys,
    pub(crate) gateway: GatewaySecrets,
    pub(crate) dataset: JsValue,
}

impl Ingest {
    /// Reads all three bindings, or says which one cannot be used.
    pub(crate) fn read(env: &Env) -> Result<Self, Unusable> {
        let api_keys = AcceptedKeys::new(&text(env, API_KEY)?, &blinding_key()?)
            .map_err(|_| Unusable(API_KEY))?;
        let gateway = GatewaySecrets::new(&text(env, GATEWAY_TOKEN_SECRET)?)
            .map_err(|_| Unusable(GATEWAY_TOKEN_SECRET))?;
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let dataset = env.analytics_engine(DATASET).map_err(|_| Unusable(DATASET))?.into();
        Ok(Self { api_keys, gateway, dataset })
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
                    .map_err(|_| Unusable(INTERNAL_API_SECRET))
            })
            .transpose()?;
        let jwt = optional(env, JWT_SECRET).map(|secret| Jwt::read(env, &secret)).transpose()?;
        let access = Access::read(env)?;
        if internal.is_none() && jwt.is_none() && access.is_none() {
            return Err(Unusable(JWT_SECRET));
        }
        Ok(Self { internal, jwt, access })
    }
}

/// What the operators' own tokens are judged by.
pub(crate) struct Jwt {
    /// At least one.
    pub(crate) secrets: Vec<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
}

impl Jwt {
    /// Takes the secret's comma-separated values and, if they are set, the issuer and audience to insist
    /// on.
    fn read(env: &Env, secret: &str) -> Result<Self, Unusable> {
        let values = secret.split(',').map(str::trim).filter(|value| !value.is_empty());
        let secrets: Vec<_> = values.map(str::to_owned).collect();
        if secrets.is_empty() {
            return Err(Unusable(JWT_SECRET));
        }
        Ok(Self {
            secrets,
            issuer: optional(env, JWT_ISSUER),
            audience: optional(env, JWT_AUDIENCE),
        })
    }
}

impl Analytics {
    /// Reads the token, and where to ask: `AE_SQL_URL`, or the cloud's with the account.
    pub(crate) fn read(env: &Env) -> Result<Self, Unusable> {
        let token = text(env, AE_API_TOKEN)?;
        let url = match text(env, AE_SQL_URL) {
            Ok(url) => url,
            Err(_) => format!("{CLOUD}/{}/analytics_engine/sql", text(env, AE_ACCOUNT_ID)?),
        };
        Ok(Self { url, token })
    }
}

/// What the tokens of Cloudflare Access are judged by.
pub(crate) struct Access {
    pub(crate) team_domain: String,
    pub(crate) audience: String,
}

impl Access {
    /// Reads both variables or neither: one alone would be a way that somebody thinks is open.
    fn read(env: &Env) -> Result<Option<Self>, Unusable> {
        match (text(env, ACCESS_TEAM_DOMAIN), text(env, ACCESS_AUD)) {
            (Ok(team_domain), Ok(audience)) => Ok(Some(Self { team_domain, audience })),
            (Err(_), Err(_)) => Ok(None),
            (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => Err(missing),
        }
    }
}

/// A secret or variable that may be left out.
fn optional(env: &Env, name: &'static str) -> Option<String> {
    text(env, name).ok()
}

/// A secret or variable, without the white space around it; an empty one is as good as none.
fn text(env: &Env, name: &'static str) -> Result<String, Unusable> {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let value = env.secret(name).map_err(|_| Unusable(name))?.to_string();
    let value = value.trim();
    if value.is_empty() { Err(Unusable(name)) } else { Ok(value.to_owned()) }
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
        getrandom::fill(&mut key).map_err(|_| Unusable("the runtime's random source"))?;
        Ok(*cell.get_or_init(|| key))
    })
}
