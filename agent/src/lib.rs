//! Reports the health of a machine and its supervised process to Kiloclaw telemetry.
//!
//! The path of a check-in: [cli] reads flags and environment, [config] validates them, [collect] takes readings,
//! [report] turns them into a check-in and sends it. The [daemon] repeats this for `run` and `watch`, and
//! supervises the command with [process]. The other subcommands are in [commands]. [state] survives a restart of
//! the agent. [alerts] reports lasting failures to Sentry, in a build with the feature `sentry`.

#![forbid(unsafe_code)]
// All output goes through `output`, which neither blocks nor panics.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "sentry")]
pub mod alerts;
#[cfg(not(feature = "sentry"))]
#[path = "alerts_disabled.rs"]
pub mod alerts;
pub mod bounded;
pub mod cli;
pub mod collect;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod env_vars;
pub mod exit;
pub mod http;
pub mod output;
pub mod process;
pub mod report;
pub mod secret;
pub mod state;
