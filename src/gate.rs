//! The gate in front of the operators' API: who is let through, and as whom.

use kiloclaw_checkin::bearer;
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
