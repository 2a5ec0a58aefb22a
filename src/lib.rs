//! Kiloclaw telemetry: takes check-ins from machines and writes them to Analytics Engine.
//!
//! A thin shell over the crates in `crates/`: a handler extracts, calls the core and answers.

mod access;
mod analytics;
mod auth;
mod bindings;
mod check_in;
mod error;
mod log;
mod operators;
mod response;
mod routing;
mod watcher;

use kiloclaw_auth::{AuthMethod, Principal};
use kiloclaw_check_in::absence::ABSENCE_PATH;
use serde::Serialize;
use worker::js_sys::Promise;
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::future_to_promise;
use worker::{Env, Request, Response, web_sys};

use error::ApiError;
use routing::{Call, Routes, now};

/// Runs once per instance of the module, before its first request.
#[wasm_bindgen(start, private)]
fn start() {
    console_error_panic_hook::set_once();
}

/// The entry point of every request.
///
/// The check-in stands ahead of the router: it is the one route whose cost matters, and the router's wrappers and
/// futures would make it dearer than the same route in TypeScript.
#[wasm_bindgen]
#[must_use]
pub fn fetch(request: &JsValue, env: &Env) -> JsValue {
    check_in::handle(request, env, |request, env| {
        future_to_promise(async move {
            let response = route(request.into(), env).await;
            let response = response.unwrap_or_else(ApiError::into_response);
            Ok(web_sys::Response::from(response).into())
        })
    })
}

/// The entry point of the cron trigger: sets the watcher's alarm, if it is lost.
#[wasm_bindgen]
#[expect(clippy::needless_pass_by_value, reason = "the boundary hands over owned values")]
pub fn scheduled(_event: JsValue, env: Env) -> Promise {
    watcher::wake(&env)
}

/// Answers every request but a check-in:
///
/// 1. it is a machine's planned absence, exactly at its path → [that](watcher::plan_own_absence) handler's response
/// 2. its path [requires authentication](auth::requires_auth), and that [fails](auth::authenticate) → 401, 403
///    or 503
/// 3. no route has its path → 404
/// 4. otherwise → the handler's response
async fn route(request: Request, env: Env) -> Result<Response, ApiError> {
    let path = request.path();
    if path == ABSENCE_PATH {
        return watcher::plan_own_absence(request, env).await;
    }
    // Ahead of the router: a stranger gets the same answer whether a route exists or not.
    let principal = if auth::requires_auth(&path) {
        Some(auth::authenticate(&request, &env).await?)
    } else {
        None
    };
    routes(principal).run(request, env).await
}

/// Every route except those of machines: [the check-in](check_in::handle) and [absences](watcher::plan_own_absence). Those below `/api` require authentication.
fn routes(principal: Option<Principal>) -> Routes {
    let routes = Routes::new(principal)
        .at("/health", |call| now(health(&call)))
        .at("/api/whoami", |call| now(whoami(&call)))
        .at("/api/openapi.json", |call| now(operators::openapi(&call)))
        .at("/api/fleet", |call| operators::respond(call, operators::fleet))
        .at("/api/fleet/history", |call| operators::respond(call, operators::fleet_history))
        .at("/api/sandboxes", |call| operators::respond(call, operators::sandboxes))
        .at("/api/sandboxes/:sandboxId", |call| operators::respond(call, operators::sandbox))
        .at("/api/sandboxes/:sandboxId/history", |call| {
            operators::respond(call, operators::history)
        })
        .at("/api/incidents", |call| operators::respond(call, operators::incidents))
        .at("/api/alerts", watcher::forward)
        .at("/api/availability", watcher::forward)
        .at("/api/absences", watcher::forward)
        .at("/api/watcher", watcher::forward)
        .at("/api/watcher/test", watcher::forward);
    #[cfg(feature = "panic-route")]
    let routes = routes.at("/panic", |_| panic_route()).at("/api/watcher/panic", watcher::forward);
    routes
}

/// `GET /health`: the version and commit that run. Public.
fn health(call: &Call) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        version: &'static str,
        commit: &'static str,
    }

    call.only_get()?;
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("BUILD_COMMIT"));
    Ok(response::json(&Health { status: "ok", version, commit })?)
}

/// `GET /api/whoami`: the principal, what it may see and how it authenticated.
fn whoami(call: &Call) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Whoami<'a> {
        sub: Option<&'a str>,
        #[serde(rename = "sandboxId")]
        sandbox_id: Option<&'a str>,
        via: AuthMethod,
    }

    call.only_get()?;
    let Principal { sub, sandbox, method, .. } = call.principal()?;
    let (sub, sandbox_id) = (sub.as_deref(), sandbox.as_deref());
    Ok(response::json(&Whoami { sub, sandbox_id, via: *method })?)
}

#[cfg(feature = "panic-route")]
#[expect(clippy::panic, reason = "that is what this route is for")]
fn panic_route() -> routing::Pending {
    panic!("requested")
}
