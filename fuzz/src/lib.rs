//! Properties that hold for any input. The fuzz targets search for inputs that break them; `tests/seeds.rs`
//! replays the seeds.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::items_after_statements,
    clippy::cast_precision_loss,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a panic is a finding; times are small"
)]

pub mod agent;
mod body;
mod credentials;
mod hmac;
mod keys;
mod reports;
pub mod sql;
mod tokens;

pub use body::body;
pub use credentials::credentials;
pub use keys::jwks;
pub use reports::{answers, parameters};
pub use tokens::jwt;
