//! From readings to an accepted check-in: counters become deltas in the [ledger], [`check_in`] builds the body,
//! [send] posts it, and [explain] describes the result.

pub mod check_in;
pub mod explain;
pub mod ledger;
pub mod send;
