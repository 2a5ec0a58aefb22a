//! The runtime's handle to a Durable Object: its storage and its alarm.

use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[derive(PartialEq)]
    pub type Context;

    #[wasm_bindgen(method, getter)]
    pub(super) fn storage(this: &Context) -> JsValue;
}
