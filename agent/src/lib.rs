//! Reports the health of a machine and its supervised process to Kiloclaw telemetry.
//!
//! A check-in goes through these modules, in this order: [cli] reads flags and environment,
//! [config] checks them, [collect] takes the readings, [baseline] turns counters into what happened
//! since the last accepted check-in, [`check_in`] puts the body together, [send] posts it and
//! [report] says what came of it. [once] is where they meet.

#![forbid(unsafe_code)]

pub mod baseline;
pub mod check_in;
pub mod cli;
pub mod collect;
pub mod config;
pub mod exit;
pub mod gateway_token;
pub mod http;
pub mod once;
pub mod output;
pub mod report;
pub mod secret;
pub mod send;
pub mod variables;
