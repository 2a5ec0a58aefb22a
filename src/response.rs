//! Successful responses: JSON.

use serde::Serialize;
use worker::Response;

/// A 200 that no cache may keep.
pub(crate) fn json(value: &impl Serialize) -> worker::Result<Response> {
    json_text(&serde_json::to_string(value)?, "no-store")
}

/// A 200 with serialized JSON.
pub(crate) fn json_text(json: &str, cache_control: &str) -> worker::Result<Response> {
    let response = Response::builder()
        .with_header("cache-control", cache_control)?
        .with_header("content-type", "application/json")?;
    no_sniff(response.fixed(json.as_bytes().to_vec()))
}

/// Keeps browsers from guessing another type, whatever texts from machines the body holds.
pub(crate) fn no_sniff(response: Response) -> worker::Result<Response> {
    response.headers().set("x-content-type-options", "nosniff")?;
    Ok(response)
}
