//! The Worker's side: passes requests on to the object.

use js_sys::{Array, Promise};
use kiloclaw_auth::ABSENCES_WRITE;
use kiloclaw_check_in::absence::{ABSENCE_PATH, Absence};
use kiloclaw_check_in::{GATEWAY_TOKEN_HEADER, Refusal};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Request, Response};

use super::parts::Parts;
use crate::bindings::{Env, watcher_namespace};
use crate::check_in;
use crate::error::{ApiError, message};
use crate::request::{Call, header, path};
use crate::response;

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    fn ask(namespace: &JsValue, parts: &Array) -> Result<Promise, JsValue>;

    #[wasm_bindgen(js_name = readBody)]
    fn read_body(request: &Request, limit: u32) -> Promise;
}

/// Maximum size of an operator's body, in bytes: 1,000 ids of 96 bytes, each of which may take six in JSON.
const MAX_BODY_BYTES: u32 = 640 * 1_024;

/// Maximum size of a machine's body, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
const MAX_OWN_BODY_BYTES: u32 = kiloclaw_check_in::limits::MAX_BODY_BYTES as u32;

/// Passes a request on to the object, which [answers](super::requests::answer) it:
///
/// 1. the body is over 640 KiB → 413
/// 2. the binding `WATCHER` is missing → 503; the object fails → 503
pub(crate) async fn forward(call: &Call) -> Result<Response, ApiError> {
    let principal = call.principal()?;
    let Call { request, env, .. } = call;
    // 1.
    let body = body(request, MAX_BODY_BYTES).await?;
    // 2.
    let namespace = watcher_namespace(env).map_err(ApiError::reports_misconfigured)?;
    let parts = Parts {
        method: request.method(),
        path: path(&request.url()),
        url: request.url(),
        by: principal.sub.clone().unwrap_or_default(),
        only: principal.sandbox.clone(),
        writes: principal.has_scope(ABSENCES_WRITE),
        body,
    };
    ask_object(&namespace, parts).await
}

/// `POST /api/controller/absence`: a machine plans its absence. The checks and their order are those of a check-in:
///
/// 1. another method than POST → 405
/// 2. a credential header is missing, or the scheme is not Bearer → 401
/// 3. a secret or binding that a check-in needs is missing or empty → 503
/// 4. the API key is wrong → 403, before the body is read; the binding `WATCHER` is missing → 503
/// 5. the body is over 64 KiB → 413
/// 6. the body is not an absence → 400
/// 7. the gateway token is not this sandbox's → 403
/// 8. the sandbox is revoked → 403
/// 9. the rate limiter, where one is bound, refuses the sandbox → 429
/// 10. the absence cannot be stored → 503
/// 11. otherwise → 204
pub(crate) async fn plan_own_absence(request: &Request, env: &Env) -> Result<Response, ApiError> {
    let header = |name| header(request, name);
    let (authorization, token) = (header("authorization"), header(GATEWAY_TOKEN_HEADER));
    let is_post = request.method() == "POST";
    // Not `f64`, whose parser is large. A body longer than `u32` cannot arrive.
    let size = header("content-length").and_then(|size| size.parse::<u32>().ok().map(f64::from));
    // 1. to 5.
    check_in::authenticate(is_post, authorization.as_deref(), token.as_deref(), None, size)?;
    let namespace = watcher_namespace(env)?;
    let body = body(request, MAX_OWN_BODY_BYTES).await?;
    // 6.
    let absence = Absence::parse_str(&body).map_err(Refusal::from)?;
    let sandbox_id = absence.sandbox_id.into_owned();
    // 7. to 9.
    check_in::authorize(&sandbox_id, token.as_deref().unwrap_or_default()).await?;
    // 10.
    let parts = Parts {
        method: "POST".to_owned(),
        path: ABSENCE_PATH.to_owned(),
        url: String::new(),
        by: sandbox_id.clone(),
        only: Some(sandbox_id),
        writes: true,
        body,
    };
    match ask_object(&namespace, parts).await?.status() {
        // 11.
        204 => Ok(response::no_content()),
        status => Err(ApiError::write_failed(format!("the watcher answered {status}"))),
    }
}

/// A request to the object whose only effect is to set a lost alarm.
pub(crate) fn wake(env: &Env) -> Promise {
    let asked = watcher_namespace(env)
        .map_err(|error| error.to_string().into())
        .and_then(|namespace| ask(&namespace, &Parts::default().into_js()));
    asked.unwrap_or_else(|error| Promise::reject(&error))
}

async fn body(request: &Request, limit: u32) -> Result<String, ApiError> {
    let body = JsFuture::from(read_body(request, limit)).await.unwrap_or_default();
    body.as_string().ok_or_else(|| Refusal::BodyTooLarge.into())
}

async fn ask_object(namespace: &JsValue, parts: Parts) -> Result<Response, ApiError> {
    let failed = |thrown: JsValue| ApiError::watcher_unavailable(&message(&thrown));
    let asking = ask(namespace, &parts.into_js()).map_err(failed)?;
    let response = JsFuture::from(asking).await.map_err(failed)?;
    Ok(response.unchecked_into())
}
