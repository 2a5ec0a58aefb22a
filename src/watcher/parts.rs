//! The parts of a request that the Worker passes on to the object.

use js_sys::Array;
use wasm_bindgen::prelude::*;

use super::object::array;

/// A request to the object.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) method: String,
    /// Empty for a request that only sets the alarm.
    pub(super) path: String,
    pub(super) url: String,
    /// The principal's name.
    pub(super) by: String,
    /// The only sandbox that the principal may see, if there is a limit.
    pub(super) only: Option<String>,
    /// Whether the principal may plan and end absences.
    pub(super) writes: bool,
    pub(super) body: String,
}

impl Parts {
    pub(super) fn into_js(self) -> Array {
        let Self { method, path, url, by, only, writes, body } = self;
        let only = only.map_or(JsValue::NULL, JsValue::from);
        let [method, path, url, by, body] = [method, path, url, by, body].map(JsValue::from);
        array(&[method, path, url, by, body, only, writes.into()])
    }

    pub(super) fn from_js(parts: &JsValue) -> Self {
        let parts = Array::from(parts);
        let text = |index| parts.get(index).as_string();
        let [method, path, url, by, body] =
            [0, 1, 2, 3, 4].map(|index| text(index).unwrap_or_default());
        Self { method, path, url, by, body, only: text(5), writes: parts.get(6).is_truthy() }
    }
}
