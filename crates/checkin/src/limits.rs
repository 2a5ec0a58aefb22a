//! The limits of the contract, and of Analytics Engine, which they stay under.

/// The largest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// The longest `sandboxId`, in bytes: it becomes the data point's index.
pub const MAX_SANDBOX_ID_BYTES: usize = AE_MAX_INDEX_BYTES;

/// The longest of any other string, in bytes.
pub const MAX_STRING_BYTES: usize = 1_024;

/// The longest index that Analytics Engine takes, in bytes.
///
/// Source: <https://developers.cloudflare.com/analytics/analytics-engine/limits/>
pub const AE_MAX_INDEX_BYTES: usize = 96;

/// The most that all blobs of one data point may hold together, in bytes.
///
/// Source: <https://developers.cloudflare.com/analytics/analytics-engine/limits/>
pub const AE_MAX_BLOB_BYTES: usize = 16_000;

// 9 blobs x 1,024 B = 9,216 B < 16,000 B. The runtime drops a larger point without a word, so a body
// that passes validation must never be able to make one.
const _: () = assert!(crate::data_point::BLOBS.len() * MAX_STRING_BYTES <= AE_MAX_BLOB_BYTES);
const _: () = assert!(MAX_SANDBOX_ID_BYTES <= MAX_STRING_BYTES);
