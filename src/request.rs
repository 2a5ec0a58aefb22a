//! What handlers read from a request.

use kiloclaw_auth::Principal;
use wasm_bindgen::prelude::*;
use web_sys::Request;

use crate::bindings::Env;
use crate::error::ApiError;

#[wasm_bindgen(module = "/src/request.js")]
extern "C" {
    /// The path of a URL.
    pub(crate) fn path(url: &str) -> String;

    /// The decoded parameters of a URL's query, names and values in turn.
    pub(crate) fn parameters(url: &str) -> Vec<String>;
}

/// A request with its context.
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) env: Env,
    /// Set on a route that requires authentication.
    pub(crate) principal: Option<Principal>,
    /// The sandbox that the path names, percent-encoded.
    pub(crate) sandbox: Option<String>,
}

impl Call {
    /// The authenticated principal. 401 on a route without authentication.
    pub(crate) fn principal(&self) -> Result<&Principal, ApiError> {
        self.principal.as_ref().ok_or_else(ApiError::missing_token)
    }

    /// 405 for other methods than GET and HEAD.
    pub(crate) fn only_get(&self) -> Result<(), ApiError> {
        match self.request.method().as_str() {
            "GET" | "HEAD" => Ok(()),
            _ => Err(ApiError::method_not_allowed("GET, HEAD")),
        }
    }
}

/// The value of a header, if the request has it.
pub(crate) fn header(request: &Request, name: &str) -> Option<String> {
    request.headers().get(name).ok().flatten()
}
