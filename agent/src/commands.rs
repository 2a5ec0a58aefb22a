//! One module for each subcommand; `run` and `watch` are the [daemon](crate::daemon).

pub mod absence;
pub mod doctor;
pub mod gateway_token;
pub mod manual;
pub mod once;
pub mod setup;
pub mod status;
