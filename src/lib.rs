//! Kiloclaw telemetry: takes check-ins from machines and writes them to Analytics Engine.
//!
//! A thin shell over `kiloclaw-checkin`: a handler extracts, calls the core, answers.

mod access;
mod analytics;
mod answer;
mod bindings;
mod checkin;
mod gate;
mod jwks;
mod jwt;
mod operators;

use std::future::{Future, Ready, ready};

use serde_json::json;
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::future_to_promise;
use worker::{Env, Request, Response, RouteContext, Router};

use answer::ApiError;
use gate::Operator;
use operators::Endpoint;

/// Runs once per instance of the module, before its first request.
#[wasm_bindgen(start, private)]
fn start() {
    console_error_panic_hook::set_once();
}

/// Every request starts here.
///
/// The check-in stands ahead of the router: the one route whose cost counts, and the router's wrappers
/// and futures would make it more expensive than the same in TypeScript.
#[wasm_bindgen]
#[must_use]
pub fn fetch(request: &JsValue, env: &Env) -> JsValue {
    checkin::take(request, env, |request, env| {
        future_to_promise(
            async move { Ok(answer::into_js(routes().run(request.into(), env).await)) },
        )
    })
}

/// Every route there is but [the check-in](checkin::take), and which of them stand behind the gate.
///
/// Handlers take all methods and refuse the wrong ones themselves: the router's own 405 knows neither
/// JSON nor `allow`.
fn routes() -> Routes {
    let routes = Routes(Router::new())
        // Public.
        .at("/health", health)
        // Operators only.
        .gated("/api/whoami", whoami)
        .gated("/api/openapi.json", operators::openapi)
        .question("/api/fleet", Endpoint::Fleet)
        .question("/api/sandboxes", Endpoint::Sandboxes)
        .question("/api/sandboxes/:sandboxId", Endpoint::Sandbox)
        .question("/api/sandboxes/:sandboxId/history", Endpoint::History)
        .question("/api/incidents", Endpoint::Incidents);
    #[cfg(feature = "panic-route")]
    let routes = routes.at("/panic", panic_route);
    routes
}

/// The router of `worker`, with an answer for everything that no route is for.
struct Routes(Router<'static, ()>);

impl Routes {
    /// Mounts a handler.
    fn at<F, T>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request, RouteContext<()>) -> T + 'static,
        T: Future<Output = worker::Result<Response>> + 'static,
    {
        // The router's tree finds no way back from `/route/` to a catch-all: it needs its own entry.
        Self(self.0.on_async(path, handler).on_async(&format!("{path}/"), unrouted))
    }

    /// Mounts a handler behind the [gate]: it runs for a verified operator or not at all.
    fn gated<F, T>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request, RouteContext<()>, Operator) -> T + Copy + 'static,
        T: Future<Output = Result<Response, ApiError>> + 'static,
    {
        self.at(path, move |request, context| through_gate(handler, request, context))
    }

    /// Mounts a question that an operator can ask.
    fn question(self, path: &str, endpoint: Endpoint) -> Self {
        self.gated(path, move |request, context, operator| {
            operators::answer(endpoint, request, context, operator)
        })
    }

    async fn run(self, request: Request, env: Env) -> worker::Result<Response> {
        self.0.on_async("/", unrouted).on_async("/*rest", unrouted).run(request, env).await
    }
}

/// What no route is for. Under /api/ a stranger does not even learn that.
async fn unrouted(request: Request, context: RouteContext<()>) -> worker::Result<Response> {
    let path = request.path();
    if path == "/api" || path.starts_with("/api/") {
        let nothing = |_, _, _| ready(Err(ApiError::NotFound));
        return through_gate(nothing, request, context).await;
    }
    ApiError::NotFound.into_response()
}

/// Runs a handler for a verified operator, and answers for the gate and the handler where they fail.
async fn through_gate<F, T>(
    handler: F,
    request: Request,
    context: RouteContext<()>,
) -> worker::Result<Response>
where
    F: Fn(Request, RouteContext<()>, Operator) -> T,
    T: Future<Output = Result<Response, ApiError>>,
{
    let answer = match gate::verify(&request, &context.env).await {
        Ok(operator) => handler(request, context, operator).await,
        Err(error) => Err(error),
    };
    answer.or_else(ApiError::into_response)
}

/// `GET /health`: the Worker runs, and which build of it.
#[expect(clippy::needless_pass_by_value, reason = "the router's signature")]
fn health(request: Request, _: RouteContext<()>) -> Ready<worker::Result<Response>> {
    ready(get_only(&request, || {
        answer::json(&json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("BUILD_COMMIT"),
        }))
    }))
}

/// `GET /api/whoami`: who is asking, which sandbox alone they may see if it is one, and how they came
/// through the gate.
#[expect(clippy::needless_pass_by_value, reason = "what a handler behind the gate takes")]
fn whoami(
    request: Request,
    _: RouteContext<()>,
    operator: Operator,
) -> Ready<Result<Response, ApiError>> {
    let Operator { sub, sandbox, via } = operator;
    let who = json!({ "sub": sub, "sandboxId": sandbox, "via": via });
    ready(get_only(&request, || answer::json(&who)).map_err(ApiError::from))
}

/// Answers GET and HEAD, and refuses every other method.
fn get_only(
    request: &Request,
    answer: impl FnOnce() -> worker::Result<Response>,
) -> worker::Result<Response> {
    // Not `request.method()`: that reads a method it does not know as GET.
    match request.inner().method().as_str() {
        "GET" | "HEAD" => answer(),
        _ => ApiError::MethodNotAllowed("GET, HEAD").into_response(),
    }
}

#[cfg(feature = "panic-route")]
#[expect(clippy::panic, reason = "that is what this route is for")]
fn panic_route(_: Request, _: RouteContext<()>) -> Ready<worker::Result<Response>> {
    panic!("asked to")
}
