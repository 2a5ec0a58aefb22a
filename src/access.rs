//! Tokens of Cloudflare Access: fetches the team's keys, and verifies signatures by `crypto.subtle`.

use std::cell::RefCell;
use std::iter;

use js_sys::{Array, Promise};
use kiloclaw_auth::access::{ALGORITHM, Settings, verify_claims};
use kiloclaw_auth::{Key, KeySet, Lookup, MissingKey, Principal, Token, TokenError};
use kiloclaw_fleet::list;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::clock::now_ms;
use crate::error::{ApiError, message};

#[wasm_bindgen(module = "/src/access.js")]
extern "C" {
    fn load(url: &str, deadline: u32) -> Promise;

    // Owned bytes are copied before the call; borrowed bytes could change while the promise is pending.
    #[wasm_bindgen(js_name = verify)]
    fn verify_signature(n: &str, e: &str, text: &str, signature: Vec<u8>) -> Promise;

    fn pause(milliseconds: u32) -> Promise;
}

/// Timeout for fetching the keys.
const FETCH_TIMEOUT_MS: u32 = 5_000;

/// Interval at which a request checks whether another request has fetched the keys.
const POLL_MS: u32 = 20;

/// Verifies a token:
///
/// 1. the token is malformed, or its algorithm is not RS256 → 401
/// 2. the team has no key with its `kid` → 401; the keys cannot be fetched → 503
/// 3. its signature is not valid under that key → 401
/// 4. its [claims](verify_claims) are not valid → 401
pub(crate) async fn verify(team: &Settings, assertion: &str) -> Result<Principal, ApiError> {
    let invalid = ApiError::invalid_assertion;
    // 1.
    let token = Token::parse(assertion).map_err(invalid)?;
    if token.algorithm() != ALGORITHM {
        return Err(invalid(TokenError::Algorithm));
    }
    // 2.
    let kid = token.key_id().ok_or(invalid(TokenError::Key))?;
    let url = format!("{}/cdn-cgi/access/certs", team.origin);
    let key = find(&url, kid).await.map_err(|missing| match missing {
        MissingKey::Unknown => invalid(TokenError::Key),
        MissingKey::Unavailable(reason) => ApiError::access_unavailable(&reason),
    })?;
    // 3.
    if !is_signed(&key, assertion, token.signature()).await? {
        return Err(invalid(TokenError::Signature));
    }
    // 4.
    verify_claims(team, &token, now_ms()).map_err(invalid)
}

async fn is_signed(key: &Key, token: &str, signature: &[u8]) -> Result<bool, ApiError> {
    let Some((text, _)) = token.rsplit_once('.') else { return Ok(false) };
    let verified = JsFuture::from(verify_signature(&key.n, &key.e, text, signature.to_vec())).await;
    let verified = verified.map_err(|thrown| ApiError::access_unavailable(&message(&thrown)))?;
    Ok(verified.is_truthy())
}

/// The key with this id. Fetches the keys if necessary.
async fn find(url: &str, kid: &str) -> Result<Key, MissingKey> {
    thread_local! {
        static KEYS: RefCell<KeySet> = RefCell::default();
    }
    loop {
        match KEYS.with_borrow_mut(|keys| keys.look_up(url, kid, now_ms())) {
            Lookup::Use(key) => return Ok(key),
            Lookup::Missing(missing) => return Err(missing),
            Lookup::Fetch => {
                let fetched = JsFuture::from(load(url, FETCH_TIMEOUT_MS)).await;
                let fetched = fetched.map(|texts| keys(&texts)).map_err(|thrown| message(&thrown));
                KEYS.with_borrow_mut(|keys| keys.settle(url, fetched, now_ms()));
            }
            // Polls instead of awaiting the other request's promise: that request may be cancelled, and the
            // runtime isolates the I/O of each request.
            Lookup::Wait => drop(JsFuture::from(pause(POLL_MS)).await),
        }
    }
}

/// The keys that [`load`] resolves to.
fn keys(texts: &JsValue) -> Vec<Key> {
    let mut texts = Array::from(texts).into_iter().filter_map(|text| text.as_string());
    list(iter::from_fn(|| Some(Key { kid: texts.next()?, n: texts.next()?, e: texts.next()? })))
}
