//! The gate in front of the operators' API: who is let through, and as whom.

use kiloclaw_checkin::bearer;
use worker::{Env, Request};

use crate::answer::ApiError;
use crate::bindings::Gate;
use crate::jwt;

/// Who passed the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    /// Who it is, if the token says so.
    pub(crate) sub: Option<String>,
    /// The one sandbox that it may see; without one, it may see the whole fleet.
    pub(crate) sandbox: Option<String>,
}

/// Lets a request through whose bearer token [holds](jwt::check).
///
/// 1. the secret is missing or empty → 503: without it the gate is shut
/// 2. there is no bearer token → 401
/// 3. the token does not hold → 401
#[expect(clippy::unused_async, reason = "keys that are fetched are about to be one way in")]
pub(crate) async fn verify(request: &Request, env: &Env) -> Result<Operator, ApiError> {
    // 1.
    let gate = Gate::read(env)?;
    // 2.
    let authorization = request.headers().get("authorization").ok().flatten();
    let token = authorization.as_deref().and_then(bearer).ok_or(ApiError::MissingToken)?;
    // 3.
    jwt::check(&gate, token, jwt::now()).map_err(ApiError::InvalidToken)
}
