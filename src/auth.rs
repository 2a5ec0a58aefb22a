//! Authentication for the operators' API: which paths need it, and who sends a request.

use kiloclaw_auth::{AuthMethod, Principal, jwt};
use kiloclaw_check_in::bearer;
use percent_encoding::percent_decode_str;
use web_sys::Request;

use crate::access;
use crate::bindings::{AuthSettings, Env};
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::request::header;

/// The header in which a backend sends a value of `INTERNAL_API_SECRET`.
const INTERNAL_KEY_HEADER: &str = "x-internal-api-key";

/// The header that Cloudflare Access adds to a request.
const ASSERTION_HEADER: &str = "cf-access-jwt-assertion";

/// Whether a path requires authentication: all paths that begin with `/api`, in any spelling. Routes have only one
/// spelling, but software that normalizes paths differently must not bypass authentication, and the responses must not
/// show a stranger which routes exist.
pub(crate) fn requires_auth(path: &str) -> bool {
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    let mut segments = Vec::new();
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let is_api =
        |segment: &[u8]| segment.get(..3).is_some_and(|it| it.eq_ignore_ascii_case(b"api"));
    path.starts_with("/api") || segments.first().is_some_and(|segment| is_api(segment))
}

/// Authenticates a request by the first credential that it has and that is configured:
///
/// 1. no kind of credential is configured, or a setting is unusable → 503
/// 2. the request has an internal key → wrong: 403
/// 3. it has a bearer token → [invalid](jwt::verify): 401
/// 4. it has a token of Cloudflare Access → [invalid](access::verify): 401; keys cannot be fetched: 503
/// 5. it has none of these → 401
pub(crate) async fn authenticate(request: &Request, env: &Env) -> Result<Principal, ApiError> {
    // 1.
    let AuthSettings { internal, jwt, access } = AuthSettings::read(env)?;
    let header = |name| header(request, name);
    // 2.
    if let Some(keys) = internal
        && let Some(key) = header(INTERNAL_KEY_HEADER)
    {
        if !keys.accept(&key) {
            return Err(ApiError::wrong_internal_key());
        }
        let sub = Some("internal".to_owned());
        return Ok(Principal {
            sub,
            sandbox: None,
            scope: String::new(),
            method: AuthMethod::Internal,
        });
    }
    // 3.
    if let Some(jwt) = jwt
        && let Some(authorization) = header("authorization")
        && let Some(token) = bearer(&authorization)
    {
        return jwt::verify(&jwt, token, now_ms()).map_err(ApiError::invalid_token);
    }
    // 4.
    if let Some(team) = access
        && let Some(assertion) = header(ASSERTION_HEADER)
    {
        return access::verify(&team, &assertion).await;
    }
    // 5.
    Err(ApiError::missing_token())
}

#[cfg(test)]
mod tests {
    use super::requires_auth;

    #[test]
    fn every_spelling_of_api_requires_authentication() {
        for path in [
            "/api",
            "/api/",
            "/api//",
            "/api/fleet",
            "/api/../health",
            "//api",
            "/\\api",
            "\\api\\fleet",
            "/./api/x",
            "/x/../api",
            "/x%2f..%2Fapi",
            "/../../api",
            "/%61pi/fleet",
            "/%41%50%49",
            "/API/fleet",
            "/api%2ffleet",
            "/%5capi",
            "/%2e/api",
            "/apiary",
            "/api%ff",
        ] {
            assert!(requires_auth(path), "{path}");
        }
    }

    #[test]
    fn nothing_else_requires_authentication() {
        for path in
            ["", "/", "//", "/health", "/x/api", "/ap", "/ap/i", "/%2561pi", "/%", "*", "/-api"]
        {
            assert!(!requires_auth(path), "{path}");
        }
    }
}
