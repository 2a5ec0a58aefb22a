//! `POST /api/controller/checkin`: moves bytes between the runtime and the contract.
//!
//! This is the hot path. Most of a check-in's cost is in crossings between JavaScript and wasm, and in driving Rust
//! futures from JavaScript; parsing and HMAC are a small part. So there are no futures and few crossings:
//! `check_in.js` collects the input and calls two synchronous steps, [`authenticate`] and [`record`]. A request that is
//! cancelled while its body arrives leaves nothing behind in Rust.
//!
//! 1. another method than POST → 405
//! 2. a credential header is missing, or the scheme is not Bearer → 401
//! 3. a secret or binding is missing or empty → 503
//! 4. the API key is neither an accepted key nor a valid token → 403, before the body is read
//! 5. `dry_run` in the query has a value other than 1 → 400
//! 6. the body is over 64 KiB → 413, before the rest is read
//! 7. the body is not a check-in → 400
//! 8. the gateway token is not this sandbox's → 403
//! 9. the sandbox is revoked → 403
//! 10. the rate limiter, if one is bound, refuses the sandbox → 429
//! 11. the data point cannot be written → 503; a dry run skips this step
//! 12. otherwise → 204

#![expect(clippy::needless_pass_by_value, reason = "the boundary hands over owned values")]
#![expect(unreachable_pub, reason = "wasm-bindgen exports only public functions")]

use std::cell::RefCell;

use js_sys::Promise;
use kiloclaw_auth::{TokenError, jwt};
use kiloclaw_check_in::data_point::{BLOBS, DOUBLES, written};
use kiloclaw_check_in::limits::MAX_BODY_BYTES;
use kiloclaw_check_in::{
    CHECK_IN_PATH, CheckIn, DRY_RUN_PARAMETER, DataPoint, GATEWAY_TOKEN_HEADER, InvalidBody,
    Presented, Refusal, is_dry_run,
};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::bindings::{ConfigError, Env, FORWARD, Ingest};
use crate::clock::now_ms;
use crate::error::{ApiError, message};
use crate::log;
use crate::response;

#[wasm_bindgen(module = "/src/bindings.js")]
extern "C" {
    fn limit(limiter: &JsValue, key: &str) -> Promise;

    #[wasm_bindgen(catch)]
    fn write(dataset: &JsValue, text: &str, ends: &[u32], doubles: &[f64]) -> Result<(), JsValue>;
}

/// The value of a header or parameter, if the request has it.
type OptionalText = Option<String>;

#[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
const BODY_LIMIT: u32 = MAX_BODY_BYTES as u32;

/// What `check_in.js` needs from the contract: the check-in's path, the query parameter for a dry run, the gateway
/// token's header, the binding of the Worker to which accepted check-ins are forwarded, and the maximum body size in
/// bytes.
#[wasm_bindgen]
pub fn wire() -> Vec<JsValue> {
    vec![
        CHECK_IN_PATH.into(),
        DRY_RUN_PARAMETER.into(),
        GATEWAY_TOKEN_HEADER.into(),
        FORWARD.into(),
        BODY_LIMIT.into(),
    ]
}

/// The status, body and log line of a wrong key, as the arguments of `refuse` in `response.js`.
#[wasm_bindgen(js_name = wrongKey)]
pub fn wrong_key() -> Vec<JsValue> {
    let refusal = Refusal::WrongApiKey;
    let line = ApiError::from(refusal).line();
    vec![refusal.status().into(), refusal.body().to_json().into(), line.into()]
}

thread_local! {
    /// The bindings; read at the first request, and when they change.
    static INGEST: RefCell<Option<Result<Ingest, ConfigError>>> = const { RefCell::new(None) };
}

/// Reads the bindings. `check_in.js` calls it before an instance's first request.
#[wasm_bindgen]
pub fn configure(env: Env) {
    INGEST.set(Some(Ingest::read(&env)));
}

/// Calls [`authenticate`]; returns whether the check-in is a dry run, or nothing for a wrong key
/// whose log line has no detail, or the response.
#[wasm_bindgen(js_name = authenticate)]
pub fn authenticate_js(
    post: bool,
    authorization: OptionalText,
    token: OptionalText,
    dry_run: OptionalText,
    size: Option<f64>,
) -> JsValue {
    match authenticate(post, authorization.as_deref(), token.as_deref(), dry_run.as_deref(), size) {
        Ok(is_dry_run) => is_dry_run.into(),
        Err(error) if error.is(Refusal::WrongApiKey) => JsValue::UNDEFINED,
        Err(error) => error.into_response().into(),
    }
}

/// Steps 1 to 6, as far as they do not need the body. `size` is the declared size of the body in bytes, if there
/// is one. Returns whether the check-in is a dry run.
pub(crate) fn authenticate(
    post: bool,
    authorization: Option<&str>,
    gateway_token: Option<&str>,
    dry_run: Option<&str>,
    size: Option<f64>,
) -> Result<bool, ApiError> {
    // 1.
    if !post {
        return Err(Refusal::MethodNotAllowed.into());
    }
    // 2.
    let presented = Presented::from_headers(authorization, gateway_token)?;
    // 3. and 4.
    with_ingest(|ingest| {
        if ingest.api_keys.accept(presented.api_key) {
            return Ok(());
        }
        let Some(settings) = &ingest.api_key_tokens else {
            return Err(Refusal::WrongApiKey.into());
        };
        match jwt::verify_key(settings, presented.api_key, now_ms()) {
            Ok(()) => Ok(()),
            // Not a token, but a wrong key.
            Err(TokenError::Malformed) => Err(Refusal::WrongApiKey.into()),
            Err(invalid) => Err(ApiError::invalid_api_key(invalid)),
        }
    })?;
    // 5.
    let is_dry_run = is_dry_run(dry_run)?;
    // 6.
    if size.is_none_or(|size| size <= f64::from(BODY_LIMIT)) {
        Ok(is_dry_run)
    } else {
        Err(Refusal::BodyTooLarge.into())
    }
}

/// Calls [`record`]; returns nothing for an accepted check-in, or the response.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
#[wasm_bindgen(js_name = record)]
pub fn record_js(
    body: String,
    size: f64,
    token: OptionalText,
    region: OptionalText,
    is_dry_run: bool,
) -> JsValue {
    let token = token.unwrap_or_default();
    let region = region.unwrap_or_default();
    let mut sandbox_id = None;
    match record(&body, size as usize, &token, &region, is_dry_run, &mut sandbox_id) {
        Ok(None) => JsValue::UNDEFINED,
        Ok(Some(response)) => response.into(),
        Err(error) => error.into_response_to(sandbox_id.as_deref()).into(),
    }
}

/// Steps 6 to 11. `size` is the size of the encoded body in bytes. With a limiter, returns the response of steps 10 and
/// 11. Sets `sandbox_id` for the log if the check-in is refused.
fn record(
    body: &str,
    size: usize,
    gateway_token: &str,
    region: &str,
    is_dry_run: bool,
    sandbox_id: &mut Option<String>,
) -> Result<Option<Promise>, ApiError> {
    // 6.
    if size > MAX_BODY_BYTES {
        return Err(Refusal::BodyTooLarge.into());
    }
    // 7. The runtime decodes a body faster than it passes bytes. But it replaces invalid UTF-8 with U+FFFD, which
    // almost always changes the length in bytes, and removes a byte-order mark at the start.
    let sent = [body.len(), body.len() + '\u{feff}'.len_utf8()];
    if !sent.contains(&size) && body.contains('\u{fffd}') {
        return Err(Refusal::from(InvalidBody::NotJson).into());
    }
    let check_in = CheckIn::parse_str(body).map_err(Refusal::from)?;

    let recorded = with_ingest(|ingest| {
        // 8. and 9.
        check_sandbox(ingest, &check_in.sandbox_id, gateway_token)?;
        let point = (!is_dry_run).then(|| PackedPoint::new(&DataPoint::new(&check_in, region)));
        // 10.
        if let Some(limiter) = &ingest.limiter {
            let id = check_in.sandbox_id.clone().into_owned();
            let dataset = ingest.dataset.clone();
            return Ok(Some(record_within_limit(limiter.clone(), id, point, dataset)));
        }
        // 11.
        point.map_or(Ok(()), |point| point.write(&ingest.dataset)).map(|()| None)
    });
    if recorded.is_err() {
        *sandbox_id = Some(check_in.sandbox_id.into_owned());
    }
    recorded
}

/// Steps 8 and 9.
fn check_sandbox(ingest: &Ingest, sandbox_id: &str, gateway_token: &str) -> Result<(), ApiError> {
    // 8.
    if !ingest.gateway.accept(sandbox_id, gateway_token) {
        return Err(Refusal::WrongGatewayToken.into());
    }
    // 9.
    if ingest.revoked.iter().any(|id| id == sandbox_id) {
        return Err(Refusal::Revoked.into());
    }
    Ok(())
}

/// Steps 8 to 10 for a planned absence, which has its own rate limit.
pub(crate) async fn authorize(sandbox_id: &str, gateway_token: &str) -> Result<(), ApiError> {
    let limiter = with_ingest(|ingest| {
        // 8. and 9.
        check_sandbox(ingest, sandbox_id, gateway_token)?;
        Ok(ingest.limiter.clone())
    })?;
    // 10. A sandbox id contains no line end, so the key is unique.
    match limiter {
        Some(limiter) if !is_within_limit(&limiter, &format!("{sandbox_id}\nabsence")).await => {
            Err(Refusal::RateLimited.into())
        }
        _ => Ok(()),
    }
}

async fn is_within_limit(limiter: &JsValue, key: &str) -> bool {
    let within = JsFuture::from(limit(limiter, key)).await.unwrap_or_else(|thrown| {
        // A failing limiter must not lose check-ins.
        log::warn("rate_limiter_failed", &message(&thrown));
        JsValue::TRUE
    });
    within.is_truthy()
}

/// Steps 10 and 11 with a limiter. Both credentials are verified by now, so nobody can use up another sandbox's limit.
fn record_within_limit(
    limiter: JsValue,
    id: String,
    point: Option<PackedPoint>,
    dataset: JsValue,
) -> Promise {
    response::promise(async move {
        // 10.
        let within = is_within_limit(&limiter, &id).await;
        // 11.
        let written = match point {
            _ if !within => Err(Refusal::RateLimited.into()),
            Some(point) => point.write(&dataset),
            None => Ok(()),
        };
        match written {
            Ok(()) => response::no_content(),
            Err(error) => error.into_response_to(Some(&id)),
        }
    })
}

fn with_ingest<T>(f: impl FnOnce(&Ingest) -> Result<T, ApiError>) -> Result<T, ApiError> {
    INGEST.with_borrow(|ingest| match ingest {
        Some(Ok(ingest)) => f(ingest),
        Some(Err(error)) => Err((*error).into()),
        None => Err(ConfigError::NOT_READ.into()),
    })
}

/// A data point, packed to cross the boundary in one call.
struct PackedPoint {
    /// The index and the blobs, concatenated.
    text: String,
    /// Where each of them ends, in UTF-16 code units.
    ends: [u32; 1 + BLOBS.len()],
    doubles: [f64; DOUBLES.len()],
    has_disk: bool,
}

impl PackedPoint {
    fn new(point: &DataPoint<'_>) -> Self {
        let mut text = String::with_capacity(512);
        let mut ends = [0; 1 + BLOBS.len()];
        let mut length = 0;
        for (end, part) in ends.iter_mut().zip([point.index].into_iter().chain(point.blobs)) {
            text.push_str(part);
            length += utf16_length(part);
            *end = length;
        }
        Self { text, ends, doubles: point.doubles, has_disk: point.has_disk }
    }

    fn write(&self, dataset: &JsValue) -> Result<(), ApiError> {
        let doubles = written(&self.doubles, self.has_disk);
        write(dataset, &self.text, &self.ends, doubles)
            .map_err(|thrown| ApiError::write_failed(message(&thrown)))
    }
}

fn utf16_length(text: &str) -> u32 {
    // Almost every text is ASCII, and that check is fast: it reads a word at a time.
    let length = if text.is_ascii() { text.len() } else { text.encode_utf16().count() };
    u32::try_from(length).unwrap_or(u32::MAX)
}
