//! Kiloclaw telemetry: takes check-ins from machines and writes them to Analytics Engine.
//!
//! A thin shell over `kiloclaw-check-in`: a handler extracts, calls the core, answers.

mod access;
mod analytics;
mod answer;
mod bindings;
mod check_in;
mod gate;
mod jwks;
mod jwt;
mod operators;

use std::cell::Cell;
use std::future::{Future, Ready, ready};
use std::rc::Rc;

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
    check_in::take(request, env, |request, env| {
        future_to_promise(async move {
            let answer = route(request.into(), env).await;
            Ok(answer::into_js(answer.or_else(ApiError::into_response)))
        })
    })
}

/// Answers every request but a check-in:
///
/// 1. the [gate] stands before the path, and [does not let the request through](gate::verify) → 401, 403
///    or 503
/// 2. nothing is served there → 404
/// 3. otherwise → the route's answer
async fn route(request: Request, env: Env) -> Result<Response, ApiError> {
    // 1. Not within the routes: a stranger gets one answer, whether there is one or not.
    let operator = if gate::guards(&request.path()) {
        Some(gate::verify(&request, &env).await?)
    } else {
        None
    };
    let is_routed = Rc::new(Cell::new(false));
    let visit = Visit { operator, is_routed: Rc::clone(&is_routed) };
    let response = routes(visit).0.run(request, env).await?;
    // 2. What the router answers itself is plain text. It has no fallback that works: its tree does not
    // find a catch-all for `/route//`.
    if is_routed.get() { Ok(response) } else { Err(ApiError::NotFound) }
}

/// What the handlers of a request share.
struct Visit {
    /// Who came through the gate, where it stands.
    operator: Option<Operator>,
    /// Whether the router found a route.
    is_routed: Rc<Cell<bool>>,
}

type Context = RouteContext<Visit>;

/// Every route there is but [the check-in](check_in::take), and which of them are for operators only.
///
/// Handlers take all methods and refuse the wrong ones themselves: the router's own 405 knows neither
/// JSON nor `allow`.
fn routes(visit: Visit) -> Routes {
    let routes = Routes(Router::with_data(visit))
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

/// The router of `worker`.
struct Routes(Router<'static, Visit>);

impl Routes {
    /// Mounts a handler.
    fn at<F, T>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request, Context) -> T + 'static,
        T: Future<Output = worker::Result<Response>> + 'static,
    {
        Self(self.0.on_async(path, move |request, context| {
            context.data.is_routed.set(true);
            handler(request, context)
        }))
    }

    /// Mounts a handler for operators: it runs for one who came through the [gate] or not at all.
    fn gated<F, T>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request, Context, Operator) -> T + Copy + 'static,
        T: Future<Output = Result<Response, ApiError>> + 'static,
    {
        self.at(path, move |request, mut context| async move {
            let answer = match context.data.operator.take() {
                Some(operator) => handler(request, context, operator).await,
                None => Err(ApiError::MissingToken),
            };
            answer.or_else(ApiError::into_response)
        })
    }

    /// Mounts a question that an operator can ask.
    fn question(self, path: &str, endpoint: Endpoint) -> Self {
        self.gated(path, move |request, context, operator| {
            operators::answer(endpoint, request, context, operator)
        })
    }
}

/// `GET /health`: the Worker runs, and which build of it.
#[expect(clippy::needless_pass_by_value, reason = "the router's signature")]
fn health(request: Request, _: Context) -> Ready<worker::Result<Response>> {
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
fn whoami(request: Request, _: Context, operator: Operator) -> Ready<Result<Response, ApiError>> {
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
fn panic_route(_: Request, _: Context) -> Ready<worker::Result<Response>> {
    panic!("asked to")
}
