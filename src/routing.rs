//! What every handler gets, and how the router calls it.

use std::cell::Cell;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;

use kiloclaw_auth::Principal;
use worker::{Env, Request, Response, RouteContext, Router};

use crate::error::ApiError;

/// A request that has a route.
pub(crate) struct Call {
    pub(crate) request: Request,
    context: Context,
}

type Context = RouteContext<Shared>;

/// What the handlers of a request share with [`Routes`].
pub(crate) struct Shared {
    principal: Option<Principal>,
    is_routed: Rc<Cell<bool>>,
}

impl Call {
    /// The authenticated principal. 401 on a route without authentication.
    pub(crate) fn principal(&self) -> Result<&Principal, ApiError> {
        self.context.data.principal.as_ref().ok_or(ApiError::MissingToken)
    }

    pub(crate) fn env(&self) -> &Env {
        &self.context.env
    }

    /// A parameter of the path.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.context.param(name).map(String::as_str)
    }

    /// 405 for other methods than GET and HEAD.
    pub(crate) fn only_get(&self) -> Result<(), ApiError> {
        // Not `request.method()`: it takes an unknown method for GET.
        match self.request.inner().method().as_str() {
            "GET" | "HEAD" => Ok(()),
            _ => Err(ApiError::MethodNotAllowed("GET, HEAD")),
        }
    }
}

/// Answers a call. A function pointer and a boxed future, so that the router's generic code exists once.
pub(crate) type Handler = fn(Call) -> Pending;

/// A response to come.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Result<Response, ApiError>>>>;

/// A response that is there already.
pub(crate) fn now(response: Result<Response, ApiError>) -> Pending {
    Box::pin(ready(response))
}

/// The router of `worker`, with handlers that fail with an [`ApiError`].
pub(crate) struct Routes {
    router: Router<'static, Shared>,
    is_routed: Rc<Cell<bool>>,
}

impl Routes {
    pub(crate) fn new(principal: Option<Principal>) -> Self {
        let is_routed = Rc::new(Cell::new(false));
        let shared = Shared { principal, is_routed: Rc::clone(&is_routed) };
        Self { router: Router::with_data(shared), is_routed }
    }

    /// Mounts a handler. It takes all methods and refuses the wrong ones itself: the router's own 405 has neither
    /// JSON nor `allow`.
    pub(crate) fn at(mut self, path: &str, handler: Handler) -> Self {
        self.router = self.router.on_async(path, move |request, context| async move {
            context.data.is_routed.set(true);
            Ok(handler(Call { request, context }).await.unwrap_or_else(ApiError::into_response))
        });
        self
    }

    /// Calls the handler of the request's path. 404 if there is none.
    pub(crate) async fn run(self, request: Request, env: Env) -> Result<Response, ApiError> {
        let response = self.router.run(request, env).await?;
        // The router's own refusals are plain text, and its fallback misses some paths, such as `/route//`.
        if self.is_routed.get() { Ok(response) } else { Err(ApiError::NotFound) }
    }
}
