//! Cloudflare Access in front of the Worker: its tokens, which the team's keys sign by RS256.

use std::cell::RefCell;
use std::iter;

use chrono::{DateTime, Utc};
use worker::Date;
use worker::js_sys::{Array, Error, Promise};
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::JsFuture;

use crate::answer::ApiError;
use crate::bindings::Access;
use crate::gate::Operator;
use crate::jwks::{Key, Keys, Missing, Next};
use crate::jwt::{self, BadToken};

#[wasm_bindgen(module = "/src/access.js")]
extern "C" {
    fn load(url: &str, deadline: u32) -> Promise;

    // Owned bytes are copied before the call: what is borrowed could change while this waits.
    fn verify(n: &str, e: &str, text: &str, signature: Vec<u8>) -> Promise;

    fn pause(milliseconds: u32) -> Promise;
}

/// How long fetching the keys may take.
const FETCH_DEADLINE_MS: u32 = 5_000;

/// How often it is looked whether another request has fetched the keys.
const POLL_MS: u32 = 20;

/// The operator whom an Access token names that one of the team's keys signed by RS256 for the
/// application, and whose `exp` lies ahead while `nbf` and `iat` do not.
pub(crate) async fn check(
    team: &Access,
    assertion: &str,
    now: impl Fn() -> DateTime<Utc>,
) -> Result<Operator, ApiError> {
    let bad = ApiError::InvalidAssertion;
    let token = jwt::read(assertion).map_err(bad)?;
    if token.algorithm() != "RS256" {
        return Err(bad(BadToken::Algorithm));
    }
    let kid = token.header().key_id.as_deref().ok_or(bad(BadToken::Key))?;
    let key =
        find(&format!("{}/cdn-cgi/access/certs", team.origin), kid).await.map_err(|missing| {
            match missing {
                Missing::Unknown => bad(BadToken::Key),
                Missing::Unavailable(reason) => ApiError::AccessUnavailable(reason),
            }
        })?;
    if !is_signed(&key, assertion, token.signature_bytes()).await? {
        return Err(bad(BadToken::Signature));
    }
    jwt::judge(team, &token, now()).map_err(bad)
}

/// Whether a key signed what stands before the last dot of a token.
async fn is_signed(key: &Key, token: &str, signature: &[u8]) -> Result<bool, ApiError> {
    let Some((text, _)) = token.rsplit_once('.') else { return Ok(false) };
    let verified = JsFuture::from(verify(&key.n, &key.e, text, signature.to_vec())).await;
    let verified = verified.map_err(|thrown| ApiError::AccessUnavailable(message(&thrown)))?;
    Ok(verified.is_truthy())
}

/// The key of this id, once it is known whether the team has one.
async fn find(url: &str, kid: &str) -> Result<Key, Missing> {
    thread_local! {
        static KEYS: RefCell<Keys> = RefCell::default();
    }
    let now = || Date::now().as_millis();
    loop {
        match KEYS.with_borrow_mut(|keys| keys.next(url, kid, now())) {
            Next::Use(key) => return Ok(key),
            Next::Miss(missing) => return Err(missing),
            Next::Fetch => {
                let fetched = JsFuture::from(load(url, FETCH_DEADLINE_MS)).await;
                let fetched = fetched.map(|texts| keys(&texts)).map_err(|thrown| message(&thrown));
                KEYS.with_borrow_mut(|keys| keys.settle(url, fetched, now()));
            }
            // Not for the other request's own promise: that request may be cancelled, and the runtime
            // keeps the I/O of requests apart.
            Next::Wait => drop(JsFuture::from(pause(POLL_MS)).await),
        }
    }
}

/// Takes what [`load`] returns.
fn keys(texts: &JsValue) -> Vec<Key> {
    let mut texts = Array::from(texts).into_iter().filter_map(|text| text.as_string());
    iter::from_fn(|| Some(Key { kid: texts.next()?, n: texts.next()?, e: texts.next()? })).collect()
}

/// What something that was thrown says.
fn message(thrown: &JsValue) -> String {
    let message = thrown.dyn_ref::<Error>().map(|error| String::from(error.message()));
    message.unwrap_or_else(|| "it threw no Error".to_owned())
}
