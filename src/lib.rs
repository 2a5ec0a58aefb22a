//! The Worker of Kiloclaw telemetry: accepts check-ins from machines and writes them to Analytics Engine.
//!
//! A thin shell over the crates in `crates/`: a handler extracts its input, calls the core and responds.

mod access;
mod analytics;
mod auth;
mod bindings;
mod check_in;
mod clock;
mod error;
mod log;
mod operators;
mod request;
mod response;
mod watcher;

use std::panic;

use js_sys::Promise;
use kiloclaw_auth::{AuthMethod, Principal};
use kiloclaw_check_in::absence::ABSENCE_PATH;
use serde::Serialize;
use wasm_bindgen::handler;
use wasm_bindgen::prelude::*;
use web_sys::{Request, Response, console};

use bindings::Env;
use error::ApiError;
use operators::Build;
use request::{Call, path};

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

#[wasm_bindgen(module = "/src/trap.js")]
extern "C" {
    fn lose();
}

/// Runs once per instance of the module, before its first request.
#[wasm_bindgen(start, private)]
fn start() {
    // The message and its location. A stack of this module would have no names.
    panic::set_hook(Box::new(|panic| console::error_1(&panic.to_string().into())));
    // Called for each trap, since tools/worker.ts passes --force-enable-abort-handler.
    handler::set_on_abort(lose);
}

/// The entry point of every request that is not a check-in.
#[wasm_bindgen(js_name = route)]
pub fn route_js(request: Request, env: Env) -> Promise {
    response::promise(
        async move { route(request, env).await.unwrap_or_else(ApiError::into_response) },
    )
}

/// The entry point of the cron trigger: sets the watcher's alarm if it is lost.
#[wasm_bindgen]
#[expect(clippy::needless_pass_by_value, reason = "the boundary hands over owned values")]
pub fn scheduled(env: Env) -> Promise {
    watcher::wake(&env)
}

/// The entry point of the watcher's Durable Object: returns its event handlers.
#[wasm_bindgen]
#[must_use]
pub fn watcher(context: watcher::Context, env: &Env) -> watcher::Driver {
    watcher::driver(context, env)
}

/// Answers every request but a check-in:
///
/// 1. the path is exactly that of a machine's planned absence → the response of [its
///    handler](watcher::plan_own_absence)
/// 2. the path [requires authentication](auth::requires_auth), and that [fails](auth::authenticate) → 401, 403 or 503
/// 3. no route has the path → 404
/// 4. otherwise → the response of the route's handler, which refuses wrong methods itself
async fn route(request: Request, env: Env) -> Result<Response, ApiError> {
    let path = path(&request.url());
    // 1.
    if path == ABSENCE_PATH {
        return watcher::plan_own_absence(&request, &env).await;
    }
    // 2. Before routing, so that a stranger gets the same response whether a route exists or not.
    let principal = if auth::requires_auth(&path) {
        Some(auth::authenticate(&request, &env).await?)
    } else {
        None
    };
    let (template, sandbox) = template(&path);
    let call = Call { request, env, principal, sandbox: sandbox.map(str::to_owned) };
    let report: Build = match template {
        "/health" => return health(&call),
        "/api/whoami" => return whoami(&call),
        "/api/fleet" => operators::fleet,
        "/api/fleet/history" => operators::fleet_history,
        "/api/sandboxes" => operators::sandboxes,
        "/api/sandboxes/{sandboxId}" => operators::sandbox,
        "/api/sandboxes/{sandboxId}/history" => operators::history,
        "/api/incidents" => operators::incidents,
        "/api/alerts" | "/api/availability" | "/api/absences" | "/api/watcher"
        | "/api/watcher/test" => return watcher::forward(&call).await,
        #[cfg(feature = "panic-route")]
        "/api/watcher/panic" => return watcher::forward(&call).await,
        #[cfg(feature = "panic-route")]
        #[expect(clippy::panic, reason = "that is what this route is for")]
        "/panic" => panic!("requested"),
        // 3.
        _ => return Err(ApiError::not_found()),
    };
    operators::respond(&call, report).await
}

/// The template of a path, as in `openapi.json`, and the sandbox that the path names. A path without a parameter is its
/// own template.
fn template(path: &str) -> (&str, Option<&str>) {
    let Some(rest) = path.strip_prefix("/api/sandboxes/") else { return (path, None) };
    match rest.split_once('/') {
        None if !rest.is_empty() => ("/api/sandboxes/{sandboxId}", Some(rest)),
        Some((id, "history")) if !id.is_empty() => ("/api/sandboxes/{sandboxId}/history", Some(id)),
        _ => (path, None),
    }
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
    Ok(response::json(&Health { status: "ok", version, commit }))
}

/// `GET /api/whoami`: the principal, what it may see and how it authenticated.
fn whoami(call: &Call) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Whoami<'a> {
        sub: Option<&'a str>,
        #[serde(rename = "sandboxId")]
        sandbox_id: Option<&'a str>,
        scope: &'a str,
        via: AuthMethod,
    }

    call.only_get()?;
    let Principal { sub, sandbox, scope, method } = call.principal()?;
    let (sub, sandbox_id) = (sub.as_deref(), sandbox.as_deref());
    Ok(response::json(&Whoami { sub, sandbox_id, scope, via: *method }))
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn a_path_names_a_sandbox_in_one_segment() {
        let (one, history) = ("/api/sandboxes/{sandboxId}", "/api/sandboxes/{sandboxId}/history");
        assert_eq!(template("/api/sandboxes/a%2Fb"), (one, Some("a%2Fb")));
        assert_eq!(template("/api/sandboxes/history"), (one, Some("history")));
        assert_eq!(template("/api/sandboxes/history/history"), (history, Some("history")));
        for path in [
            "/api/sandboxes",
            "/api/sandboxes/",
            "/api/sandboxes//history",
            "/api/sandboxes/a/",
            "/api/sandboxes/a/history/",
            "/api/sandboxes/a/b",
        ] {
            assert_eq!(template(path), (path, None));
        }
    }
}
