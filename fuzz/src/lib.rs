//! What must hold for whatever strangers, machines, operators and Analytics Engine send to the Worker.
//! Shared by the fuzz targets and by `tests/fuzz_seeds.rs`.

mod body;
mod credentials;
mod hmac;
mod keys;
mod questions;
mod tokens;

pub use body::body;
pub use credentials::credentials;
pub use keys::jwks;
pub use questions::{answers, parameters};
pub use tokens::jwt;
