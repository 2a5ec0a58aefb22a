//! Lines in the log: JSON with a code for programs.

use serde::Serialize;
use web_sys::console;

/// A line in the log. It holds no secret and no credential.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    pub(crate) code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<&'a str>,
}

impl LogLine<'_> {
    pub(crate) fn to_json(&self) -> String {
        kiloclaw_json::to_string(self)
    }
}

/// Logs an event as an error.
pub(crate) fn error(code: &str, detail: &str) {
    console::error_1(&event(code, detail).into());
}

/// Logs an event as a warning.
pub(crate) fn warn(code: &str, detail: &str) {
    console::warn_1(&event(code, detail).into());
}

fn event(code: &str, detail: &str) -> String {
    LogLine { code, detail: Some(detail), ..LogLine::default() }.to_json()
}

/// Logs what happened to a message to a channel, as an error. Neither URLs nor bodies are logged.
pub(crate) fn message(code: &str, channel: &str, id: &str, detail: &str) {
    let (channel, id, detail) = (Some(channel), Some(id), Some(detail));
    let line = LogLine { code, channel, id, detail, ..LogLine::default() };
    console::error_1(&line.to_json().into());
}
