//! Lines in the log: JSON with a code for programs.

use serde::Serialize;

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
        // Numbers and texts serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The line in the log about an event.
pub(crate) fn event(code: &str, detail: &str) -> String {
    LogLine { code, detail: Some(detail), ..LogLine::default() }.to_json()
}

/// The line in the log about a message to a channel.
pub(crate) fn message_event(code: &str, channel: &str, id: &str, detail: &str) -> String {
    let (channel, id, detail) = (Some(channel), Some(id), Some(detail));
    LogLine { code, channel, id, detail, ..LogLine::default() }.to_json()
}
