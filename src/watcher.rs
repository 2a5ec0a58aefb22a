//! The watcher: a Durable Object that asks Analytics Engine every minute who fell silent or returned, keeps what it
//! found, and sends messages. `kiloclaw_watch` decides; its README says what this shell does.
//!
//! There is one object. Its alarm drives it; a cron trigger, and every request to it, set the alarm if it is lost.
//! `watcher.js` waits, and calls synchronous steps here: a panic anywhere in the isolate would strand a future.

mod delivery;
mod object;
mod parts;
mod requests;
mod routes;
mod tick;

use worker::js_sys::Promise;
use worker::wasm_bindgen::prelude::*;
use worker::{Env, web_sys};

use crate::error::ApiError;
use object::Object;

pub(crate) use routes::{forward, plan_own_absence, wake};

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    /// What drives the object.
    type Driver;

    fn drive(context: &JsValue, step: JsValue) -> Driver;

    #[wasm_bindgen(method)]
    fn alarm(this: &Driver) -> Promise;

    #[wasm_bindgen(method)]
    fn fetch(this: &Driver, request: web_sys::Request) -> Promise;
}

/// The Durable Object's class. The `worker` crate's macro is not used: it exports futures.
#[wasm_bindgen]
pub struct Watcher {
    driver: Driver,
}

#[wasm_bindgen]
#[expect(clippy::needless_pass_by_value, reason = "the boundary hands over owned values")]
impl Watcher {
    /// Called by the runtime with the object's state, and after a panic in the isolate.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(context: JsValue, env: Env) -> Self {
        let object = Object::new(&context, &env);
        let step = Closure::<Step>::new(move |name: String, argument| {
            step(&object, &name, argument).map_err(|error| error.line().into())
        });
        Self { driver: drive(&context, step.into_js_value()) }
    }

    /// Answers a request that the Worker passes on. Each one sets the alarm, if it is lost.
    pub fn fetch(&self, request: web_sys::Request) -> Promise {
        self.driver.fetch(request)
    }

    /// Ticks if a tick is due, and sends what is due.
    pub fn alarm(&self) -> Promise {
        self.driver.alarm()
    }
}

type Step = dyn Fn(String, JsValue) -> Result<JsValue, JsValue>;

/// A step of `watcher.js`.
fn step(object: &Object, name: &str, argument: JsValue) -> Result<JsValue, ApiError> {
    match name {
        "next tick" => Ok(object.next_tick()),
        "tick" => tick::start(object),
        "answers" => tick::read(object, argument),
        "due messages" => delivery::due_messages(object),
        "sent" => delivery::record(object, &argument),
        "ping" => Ok(delivery::ping(object)),
        "pinged" => Ok(delivery::pinged(object, &argument)),
        "answer" => Ok(requests::answer(object, &argument)),
        "tested" => Ok(requests::tested(&argument)),
        // "next"
        _ => object.next(),
    }
}
