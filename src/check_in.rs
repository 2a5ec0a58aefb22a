//! `POST /api/controller/checkin`: moves bytes between the runtime and the contract.
//!
//! The hot path. What a check-in costs is crossing between JavaScript and wasm, and driving Rust
//! futures from there; parsing and HMAC are a small part of it. So it has no future and few
//! crossings: `check_in.js` collects what is needed and calls two synchronous steps, [`admit`] and
//! [`accept`]. A request that is cancelled while its body arrives leaves nothing behind in Rust.

#![expect(clippy::needless_pass_by_value, reason = "the boundary hands over owned values")]

use std::cell::{OnceCell, RefCell};

use kiloclaw_check_in::data_point::{BLOBS, DOUBLES};
use kiloclaw_check_in::limits::MAX_BODY_BYTES;
use kiloclaw_check_in::{
    CHECK_IN_PATH, CheckIn, DRY_RUN_PARAMETER, DataPoint, GATEWAY_TOKEN_HEADER, InvalidBody,
    Presented, Refusal, is_dry_run,
};
use worker::js_sys::{Function, Promise, Reflect};
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::{JsFuture, future_to_promise};
use worker::{Env, Response, console_warn, web_sys};

use crate::answer::{self, ApiError};
use crate::bindings::{Ingest, Unusable};

#[wasm_bindgen(module = "/src/check_in.js")]
extern "C" {
    fn lane(
        names: Vec<String>,
        limit: u32,
        route: &JsValue,
        configure: &JsValue,
        admit: &JsValue,
        accept: &JsValue,
    ) -> Function;

    fn limit(limiter: &JsValue, key: &str) -> Promise;

    #[wasm_bindgen(catch)]
    fn write(dataset: &JsValue, text: &str, ends: &[u32], doubles: &[f64]) -> Result<(), JsValue>;
}

/// Answers a check-in, and hands every other request to `route`:
///
/// 1. another method than POST → 405
/// 2. a credential header is missing, or the scheme is not Bearer → 401
/// 3. a secret or binding is missing or empty → 503
/// 4. the API key is wrong → 403, before the body is read
/// 5. the query asks for a dry run in another way than the contract's → 400
/// 6. the body is over 16 KiB → 413, before the rest is read
/// 7. the body is not a check-in → 400
/// 8. the gateway token is not this sandbox's → 403
/// 9. the sandbox is revoked → 403
/// 10. where there is a limiter: the sandbox checks in too often → 429
/// 11. the data point cannot be written → 503; a dry run does not try
/// 12. otherwise → 204
pub(crate) fn take(request: &JsValue, env: &Env, route: Route) -> JsValue {
    thread_local! {
        static LANE: OnceCell<Function> = const { OnceCell::new() };
    }
    LANE.with(|lane| lane.get_or_init(|| new_lane(route)).call2(&JsValue::UNDEFINED, request, env))
        .unwrap_or_else(|thrown| Promise::reject(&thrown).into())
}

/// Answers a request that is no check-in.
type Route = fn(web_sys::Request, Env) -> Promise;

fn new_lane(route: Route) -> Function {
    lane(
        [CHECK_IN_PATH, DRY_RUN_PARAMETER, GATEWAY_TOKEN_HEADER].map(str::to_owned).into(),
        BODY_LIMIT,
        &Closure::<dyn Fn(web_sys::Request, Env) -> Promise>::new(route).into_js_value(),
        &Closure::<dyn Fn(Env)>::new(configure).into_js_value(),
        &Closure::<dyn Fn(bool, Text, Text, Text, Option<f64>) -> JsValue>::new(admit_js)
            .into_js_value(),
        &Closure::<dyn Fn(String, f64, Text, Text, Text) -> JsValue>::new(accept_js)
            .into_js_value(),
    )
}

/// A header's or a parameter's value, if the request has it.
type Text = Option<String>;

#[expect(clippy::cast_possible_truncation, reason = "16 KiB")]
const BODY_LIMIT: u32 = MAX_BODY_BYTES as u32;

thread_local! {
    /// What the bindings hold. They are read when they are first seen and when they change.
    static INGEST: RefCell<Option<Result<Ingest, Unusable>>> = const { RefCell::new(None) };
}

fn configure(env: Env) {
    INGEST.set(Some(Ingest::read(&env)));
}

fn admit_js(
    post: bool,
    authorization: Text,
    token: Text,
    dry_run: Text,
    size: Option<f64>,
) -> JsValue {
    match admit(post, authorization.as_deref(), token.as_deref(), dry_run.as_deref(), size) {
        Ok(()) => JsValue::UNDEFINED,
        Err(error) => error.into_js(None),
    }
}

/// Steps 1 to 6, as far as they need no body. `size` is what the body is declared to measure, in
/// bytes, if it is.
fn admit(
    post: bool,
    authorization: Option<&str>,
    gateway_token: Option<&str>,
    dry_run: Option<&str>,
    size: Option<f64>,
) -> Result<(), ApiError> {
    // 1.
    if !post {
        return Err(Refusal::MethodNotAllowed.into());
    }
    // 2.
    let presented = Presented::from_headers(authorization, gateway_token)?;
    // 3. and 4.
    with_ingest(|ingest| {
        if ingest.api_keys.accept(presented.api_key) {
            Ok(())
        } else {
            Err(Refusal::WrongApiKey.into())
        }
    })?;
    // 5.
    is_dry_run(dry_run)?;
    // 6.
    if size.is_none_or(|size| size <= f64::from(BODY_LIMIT)) {
        Ok(())
    } else {
        Err(Refusal::BodyTooLarge.into())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
fn accept_js(body: String, size: f64, token: Text, region: Text, dry_run: Text) -> JsValue {
    let token = token.unwrap_or_default();
    let region = region.unwrap_or_default();
    let mut sandbox_id = None;
    match accept(&body, size as usize, &token, &region, dry_run.as_deref(), &mut sandbox_id) {
        Ok(None) => JsValue::UNDEFINED,
        Ok(Some(later)) => later.into(),
        Err(error) => error.into_js(sandbox_id.as_deref()),
    }
}

/// Steps 5 to 11. `size` is what the body measured in bytes before it was decoded. Where the limiter has
/// to be asked, what is returned is the answer of the last two.
fn accept(
    body: &str,
    size: usize,
    gateway_token: &str,
    region: &str,
    dry_run: Option<&str>,
    sandbox_id: &mut Option<String>,
) -> Result<Option<Promise>, ApiError> {
    // 5.
    let is_dry_run = is_dry_run(dry_run)?;
    // 6.
    if size > MAX_BODY_BYTES {
        return Err(Refusal::BodyTooLarge.into());
    }
    // 7. The runtime decodes faster than it hands over bytes, but puts U+FFFD for what is not
    // UTF-8. A U+FFFD that was sent is as long as it was then, one that was put hardly ever is. A
    // byte-order mark at the start is gone by now.
    let sent = [body.len(), body.len() + '\u{feff}'.len_utf8()];
    if body.contains('\u{fffd}') && !sent.contains(&size) {
        return Err(Refusal::from(InvalidBody::NotJson).into());
    }
    let check_in = CheckIn::parse_str(body).map_err(Refusal::from)?;

    let accepted = with_ingest(|ingest| {
        // 8.
        if !ingest.gateway.accept(&check_in.sandbox_id, gateway_token) {
            return Err(Refusal::WrongGatewayToken.into());
        }
        // 9.
        if ingest.revoked.contains(&*check_in.sandbox_id) {
            return Err(Refusal::Revoked.into());
        }
        let point = (!is_dry_run).then(|| Packed::new(&DataPoint::new(&check_in, region)));
        // 10.
        if let Some(limiter) = &ingest.limiter {
            let id = check_in.sandbox_id.clone().into_owned();
            return Ok(Some(accept_within(limiter.clone(), id, point, ingest.dataset.clone())));
        }
        // 11.
        point.map_or(Ok(()), |point| point.write(&ingest.dataset)).map(|()| None)
    });
    if accepted.is_err() {
        *sandbox_id = Some(check_in.sandbox_id.into_owned());
    }
    accepted
}

/// Steps 10 and 11, where there is a limiter. Whoever gets here has shown both credentials, so nobody can
/// use up the limit of another sandbox.
fn accept_within(limiter: JsValue, id: String, point: Option<Packed>, dataset: JsValue) -> Promise {
    future_to_promise(async move {
        // 10.
        let within = JsFuture::from(limit(&limiter, &id)).await.unwrap_or_else(|_| {
            // A limiter that is out of order must not lose check-ins.
            console_warn!(r#"{{"code":"rate_limiter_failed"}}"#);
            JsValue::TRUE
        });
        // 11.
        let written = match point {
            _ if within.is_falsy() => Err(Refusal::RateLimited.into()),
            Some(point) => point.write(&dataset),
            None => Ok(()),
        };
        Ok(match written {
            Ok(()) => answer::into_js(answer::no_sniff(Response::empty()?.with_status(204))),
            Err(error) => error.into_js(Some(&id)),
        })
    })
}

fn with_ingest<T>(f: impl FnOnce(&Ingest) -> Result<T, ApiError>) -> Result<T, ApiError> {
    INGEST.with_borrow(|ingest| match ingest {
        Some(Ok(ingest)) => f(ingest),
        Some(Err(unusable)) => Err((*unusable).into()),
        None => Err(Unusable::NOT_READ.into()),
    })
}

/// A point as it crosses the boundary: in one call.
struct Packed {
    /// The index and the blobs, end to end.
    text: String,
    /// Where each of them ends, in UTF-16 code units.
    ends: [u32; 1 + BLOBS.len()],
    doubles: [f64; DOUBLES.len()],
}

impl Packed {
    fn new(point: &DataPoint<'_>) -> Self {
        let mut text = String::with_capacity(512);
        let mut ends = [0; 1 + BLOBS.len()];
        let mut length = 0;
        for (end, part) in ends.iter_mut().zip([point.index].into_iter().chain(point.blobs)) {
            text.push_str(part);
            length += utf16_length(part);
            *end = length;
        }
        Self { text, ends, doubles: point.doubles }
    }

    fn write(&self, dataset: &JsValue) -> Result<(), ApiError> {
        write(dataset, &self.text, &self.ends, &self.doubles).map_err(|thrown| {
            // Anything can be thrown, and even an Error's message can be anything.
            let message = Reflect::get(&thrown, &"message".into()).unwrap_or(thrown);
            let reason = message.as_string();
            ApiError::WriteFailed(reason.unwrap_or_else(|| "it threw no Error".to_owned()))
        })
    }
}

fn utf16_length(text: &str) -> u32 {
    // Almost every text is ASCII, and that is told a word at a time.
    let length = if text.is_ascii() { text.len() } else { text.encode_utf16().count() };
    u32::try_from(length).unwrap_or(u32::MAX)
}
