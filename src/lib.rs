//! Kiloclaw telemetry: takes check-ins from machines and writes them to Analytics Engine.
//!
//! A thin shell over `kiloclaw-checkin`: a handler extracts, calls the core, answers.

mod answer;
mod bindings;
mod checkin;
mod jwt;

use std::future::{Ready, ready};

use kiloclaw_checkin::CHECKIN_PATH;
use serde_json::json;
use worker::{Context, Env, Method, Request, Response, RouteContext, Router, event};

use answer::ApiError;
use jwt::Operator;

/// Runs once per instance of the module, before its first request.
#[event(start)]
fn start() {
    console_error_panic_hook::set_once();
    jwt::install_crypto();
}

/// Every request starts here.
#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> worker::Result<Response> {
    routes().run(request, env).await
}

/// Every route there is, and which of them stand behind the JWT gate.
///
/// Handlers take all methods and refuse the wrong ones themselves: the router's own 405 knows neither
/// JSON nor `allow`.
fn routes() -> Router<'static, ()> {
    let router = Router::new()
        // Public. Check-ins carry credentials of their own.
        .on_async(CHECKIN_PATH, checkin::handle)
        .on("/health", health)
        // Operators only.
        .on_async("/api/whoami", gated(whoami))
        // All else: behind the gate under /api/, so that nothing there answers a stranger.
        .on_async("/api", gated(not_found))
        .on_async("/api/", gated(not_found))
        .on_async("/api/*rest", gated(not_found))
        .on_async("/", not_found_anywhere)
        .on_async("/*rest", not_found_anywhere);
    #[cfg(feature = "panic-route")]
    let router = router.on("/panic", |_, _| {
        #[expect(clippy::panic, reason = "that is what this route is for")]
        {
            panic!("asked to")
        }
    });
    router
}

/// Puts a handler behind the JWT gate: it runs for a verified operator or not at all.
fn gated(
    handler: fn(&Request, &Operator) -> worker::Result<Response>,
) -> impl Fn(Request, RouteContext<()>) -> Ready<worker::Result<Response>> {
    move |request, context| {
        ready(match jwt::verify(&request, &context.env) {
            Ok(operator) => handler(&request, &operator),
            Err(error) => error.into_response(),
        })
    }
}

/// `GET /health`: the Worker runs, and which build of it.
#[expect(clippy::needless_pass_by_value, reason = "the router's signature")]
fn health(request: Request, _: RouteContext<()>) -> worker::Result<Response> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return ApiError::MethodNotAllowed("GET, HEAD").into_response();
    }
    answer::json(&json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("BUILD_COMMIT"),
    }))
}

/// `GET /api/whoami`: who the token says is asking.
fn whoami(request: &Request, operator: &Operator) -> worker::Result<Response> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return ApiError::MethodNotAllowed("GET, HEAD").into_response();
    }
    answer::json(&json!({ "sub": operator.sub }))
}

fn not_found(_: &Request, _: &Operator) -> worker::Result<Response> {
    ApiError::NotFound.into_response()
}

fn not_found_anywhere(_: Request, _: RouteContext<()>) -> Ready<worker::Result<Response>> {
    ready(ApiError::NotFound.into_response())
}
