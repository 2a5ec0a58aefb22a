//! The watcher: a Durable Object that asks Analytics Engine every minute which sandboxes fell silent or returned,
//! stores its findings, and sends messages. `kiloclaw_watch` decides; its README describes what this shell does.
//!
//! There is one object. Its alarm drives it; a cron trigger, and every request to it, set the alarm if it is lost.
//! `watcher.js` awaits, and calls synchronous steps here: after a panic in the isolate, a future would stay pending.

mod context;
mod delivery;
mod object;
mod parts;
mod requests;
mod routes;
mod tick;

use std::cell::RefCell;

use wasm_bindgen::prelude::*;

use crate::bindings::Env;
use crate::error::ApiError;
use object::Object;

pub(crate) use context::Context;

pub(crate) use routes::{forward, plan_own_absence, wake};

#[wasm_bindgen(module = "/src/watcher.js")]
extern "C" {
    /// What handles the object's requests and alarms.
    #[derive(Clone)]
    pub type Driver;

    fn drive(context: &Context, step: JsValue) -> Driver;
}

/// The event handlers of the Durable Object with this context. An instance of the module keeps one object, since there
/// is one watcher; after a panic in the isolate, a fresh instance creates the object again.
pub(crate) fn driver(context: Context, env: &Env) -> Driver {
    thread_local! {
        static CURRENT: RefCell<Option<(Context, Driver)>> = const { RefCell::new(None) };
    }
    CURRENT.with_borrow_mut(|current| match current {
        Some((known, driver)) if *known == context => driver.clone(),
        _ => {
            let object = Object::new(&context, env);
            let step = Closure::<Step>::new(move |name: String, argument| {
                step(&object, &name, argument).map_err(|error| error.line().into())
            });
            let driver = drive(&context, step.into_js_value());
            current.insert((context, driver)).1.clone()
        }
    })
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
        "next" => object.next(),
        _ => Err(ApiError::internal(format!("watcher.js has a step that is unknown: {name}"))),
    }
}
