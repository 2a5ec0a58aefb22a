//! Reports the health of a machine and its supervised process to Kiloclaw telemetry.
//!
//! A check-in goes through these modules, in this order: [cli] reads flags and environment,
//! [config] checks them, [collect] takes the readings, [ledger] turns counters into what was not
//! told yet, [`check_in`] puts the body together, [send] posts it and [report] says what came of it.
//! [once] is where they meet.
//!
//! `run` and `watch` repeat that: [daemon] decides what to do and when, out of [schedule] and
//! [supervisor]; all three are pure. [service] does it, with [worker] for what takes time, and with
//! [process] and [launch] for the command. [state] is what remains. [alerts] tell what lasts to Sentry, in a
//! build with the feature `sentry`. [doctor] checks all of it.

#![forbid(unsafe_code)]
// All that is written goes through `output`, which neither waits nor panics.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "sentry")]
pub mod alerts;
#[cfg(not(feature = "sentry"))]
#[path = "no_alerts.rs"]
pub mod alerts;
pub mod bounded;
pub mod check_in;
pub mod children;
pub mod cli;
pub mod collect;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod exit;
pub mod gateway_token;
pub mod http;
pub mod launch;
pub mod ledger;
pub mod manual;
pub mod no_proxy;
pub mod once;
pub mod output;
pub mod process;
pub mod report;
pub mod schedule;
pub mod secret;
pub mod send;
pub mod service;
pub mod signals;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod variables;
pub mod worker;
