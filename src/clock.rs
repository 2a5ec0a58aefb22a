//! The runtime's clock.

/// The time in milliseconds since 1970. During a request, it advances only with I/O.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number after 1970"
)]
pub(crate) fn now_ms() -> u64 {
    js_sys::Date::now() as u64
}
