//! The gate in front of the operators' API: who is let through, and as whom.

use kiloclaw_check_in::bearer;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use worker::{Env, Request};

use crate::access;
use crate::answer::ApiError;
use crate::bindings::Gate;
use crate::jwt;

/// The header that a backend of one's own presents a value of `INTERNAL_API_SECRET` in.
const INTERNAL_KEY_HEADER: &str = "x-internal-api-key";

/// The header that Cloudflare Access adds to what it lets through.
const ASSERTION_HEADER: &str = "cf-access-jwt-assertion";

/// Whether the gate stands before a path: before all that begins with `/api`, however it is spelt. No route
/// is at the other spellings, but what reads this path as another one must not get past the gate, and a
/// stranger must not learn from the answers which routes there are.
pub(crate) fn guards(path: &str) -> bool {
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

/// Who passed the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    /// Who it is, if the token says so.
    pub(crate) sub: Option<String>,
    /// The one sandbox that it may see; without one, it may see the whole fleet.
    pub(crate) sandbox: Option<String>,
    /// How it came through.
    pub(crate) via: Via,
}

/// The ways through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// A bearer token signed with `JWT_SECRET`.
    Jwt,
    /// A token of Cloudflare Access.
    Access,
    /// A value of `INTERNAL_API_SECRET`.
    Internal,
}

/// Lets a request through by the first credential that it has and that a way is open for.
///
/// 1. no way is open, or what one needs cannot be used → 503: then the gate is shut
/// 2. an internal key → wrong: 403
/// 3. a bearer token → it [does not hold](jwt::check): 401
/// 4. a token of Cloudflare Access → it [does not hold](access::check): 401; the team's keys cannot be
///    fetched: 503
/// 5. none of these → 401
pub(crate) async fn verify(request: &Request, env: &Env) -> Result<Operator, ApiError> {
    // 1.
    let Gate { internal, jwt, access } = Gate::read(env)?;
    let headers = request.headers();
    let header = |name| headers.get(name).ok().flatten();
    // 2.
    if let Some(keys) = internal
        && let Some(key) = header(INTERNAL_KEY_HEADER)
    {
        if !keys.accept(&key) {
            return Err(ApiError::WrongInternalKey);
        }
        return Ok(Operator {
            sub: Some("internal".to_owned()),
            sandbox: None,
            via: Via::Internal,
        });
    }
    // 3.
    if let Some(jwt) = jwt
        && let Some(authorization) = header("authorization")
        && let Some(token) = bearer(&authorization)
    {
        return jwt::check(&jwt, token, jwt::now()).map_err(ApiError::InvalidToken);
    }
    // 4.
    if let Some(team) = access
        && let Some(assertion) = header(ASSERTION_HEADER)
    {
        return access::check(&team, &assertion, jwt::now).await;
    }
    // 5.
    Err(ApiError::MissingToken)
}

#[cfg(test)]
mod tests {
    use super::guards;

    #[test]
    fn the_gate_stands_before_every_spelling_of_api() {
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
            assert!(guards(path), "{path}");
        }
    }

    #[test]
    fn the_gate_stands_before_nothing_else() {
        for path in
            ["", "/", "//", "/health", "/x/api", "/ap", "/ap/i", "/%2561pi", "/%", "*", "/-api"]
        {
            assert!(!guards(path), "{path}");
        }
    }
}
