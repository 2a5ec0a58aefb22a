//! Successful responses: JSON.

use std::pin::Pin;

use js_sys::Promise;
use kiloclaw_fleet::list;
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::Response;

#[wasm_bindgen(module = "/src/response.js")]
extern "C" {
    fn respond(status: u16, body: Option<&str>, headers: Vec<String>) -> Response;
}

/// A future's response as a promise, which is never rejected. The future is boxed, so that the code that drives futures
/// exists only once.
pub(crate) fn promise(response: impl Future<Output = Response> + 'static) -> Promise {
    let settled: Pin<Box<dyn Future<Output = Result<JsValue, JsValue>>>> =
        Box::pin(async { Ok(response.await.into()) });
    future_to_promise(settled)
}

/// A 200 that no cache may keep.
pub(crate) fn json(value: &impl Serialize) -> Response {
    json_text(&kiloclaw_json::to_string(value))
}

/// The same with serialized JSON.
pub(crate) fn json_text(json: &str) -> Response {
    with(200, Some(json), &[("cache-control", "no-store")])
}

pub(crate) fn no_content() -> Response {
    with(204, None, &[])
}

pub(crate) fn with(status: u16, json: Option<&str>, headers: &[(&str, &str)]) -> Response {
    let headers = headers.iter().flat_map(|(name, value)| [*name, *value]);
    respond(status, json, list(headers.map(str::to_owned)))
}
