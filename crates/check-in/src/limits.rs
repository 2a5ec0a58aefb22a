//! The limits of the contract, within those of Analytics Engine.

/// Maximum size of a body, in bytes. The contract's fields take at most 15 kB; the rest is for fields of other clients,
/// such as lists of models.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Maximum length of `sandboxId`, in bytes: it becomes the data point's index.
pub const MAX_SANDBOX_ID_BYTES: usize = AE_MAX_INDEX_BYTES;

/// Maximum length of any other string, in bytes.
pub const MAX_STRING_BYTES: usize = 1_024;

/// Maximum number of restarts in a check-in, in total or since the last one: one a second for 31 years.
///
/// No machine can reach this bound or the three below, and they are low enough that a fleet's sums stay finite.
pub const MAX_RESTARTS: f64 = 1_000_000_000.0;

/// Maximum uptime, in seconds: 126 years.
pub const MAX_UPTIME_SECONDS: f64 = 4_000_000_000.0;

/// Maximum load average: Linux has at most 2^22 tasks (`PID_MAX_LIMIT` in `linux/threads.h`).
pub const MAX_LOAD: f64 = 4_194_304.0;

/// Maximum number of bytes in one direction in a check-in, 2^53: 100 Gbit/s for 8 days. Up to this number, a double is
/// exact.
pub const MAX_BYTES: f64 = 9_007_199_254_740_992.0;

/// Maximum length of a planned absence with an end, in seconds: 30 days.
pub const MAX_ABSENCE_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Maximum length of an absence's reason, in characters (Unicode scalar values): at most 800 bytes.
pub const MAX_REASON_CHARACTERS: usize = 200;

/// Whether a text holds characters that can change the surrounding text on display: control characters, Unicode's line
/// and paragraph separators, and its bidirectional controls.
#[must_use]
pub fn has_control_characters(text: &str) -> bool {
    // Almost every text is printable ASCII.
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.chars().any(is_control)
}

/// The bidirectional controls are those with the property `Bidi_Control`
/// (<https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters>).
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Analytics Engine's longest index, in bytes.
///
/// Source: <https://developers.cloudflare.com/analytics/analytics-engine/limits/>
pub const AE_MAX_INDEX_BYTES: usize = 96;

/// Analytics Engine's maximum for all blobs of a data point together, in bytes.
///
/// Source: <https://developers.cloudflare.com/analytics/analytics-engine/limits/>
pub const AE_MAX_BLOB_BYTES: usize = 16_000;

const _: () = assert!(MAX_SANDBOX_ID_BYTES <= MAX_STRING_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_control_characters_and_nothing_else() {
        for text in
            ["", "sandbox-1", "a b~", "é日👩\u{200d}💻", "\u{a0}", "<b>", "\u{fffd}", "\u{202f}"]
        {
            assert!(!has_control_characters(text), "{text:?}");
        }
        for c in "\0\t\n\r\u{1b}\u{7f}\u{80}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}".chars() {
            for text in [c.to_string(), format!("a{c}"), format!("{c}é")] {
                assert!(has_control_characters(&text), "{text:?}");
            }
        }
    }
}
