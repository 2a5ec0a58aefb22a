//! The check-in contract, as code.
//!
//! Client and server of `POST /api/controller/checkin` must agree on the [payload](CheckIn) and its [limits], the
//! [credentials](AcceptedKeys), the [refusals](Refusal), the [dry run](is_dry_run) and the [data point](data_point),
//! and on the body of a planned [absence]. The crate uses no Workers API, no HTTP library, no I/O, no clock and no
//! randomness, so the Worker, the agent, tests and fuzzers share it.

#![forbid(unsafe_code)]

pub mod absence;
mod credentials;
pub mod data_point;
mod dry_run;
pub mod limits;
mod payload;
mod refusal;

pub use credentials::{AcceptedKeys, EmptySecret, GatewaySecrets, GatewayToken, Presented, bearer};
pub use data_point::DataPoint;
pub use dry_run::{DRY_RUN_QUERY, is_dry_run};
pub use payload::{CheckIn, Field, InvalidBody};
pub use refusal::{Credential, DRY_RUN_PARAMETER, ErrorBody, Refusal};

/// The path for check-ins.
pub const CHECK_IN_PATH: &str = "/api/controller/checkin";

/// The header that carries a machine's gateway token.
pub const GATEWAY_TOKEN_HEADER: &str = "x-kiloclaw-gateway-token";
