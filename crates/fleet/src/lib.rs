//! Reports about the fleet: SQL queries over check-ins, and the JSON made of their answers.
//!
//! Each report is a type that implements [`Report`]. It is [built](FleetReport::new) from a request's parameters, names
//! its queries in Analytics Engine's SQL, and builds a response from the rows. Pure: no HTTP and no clock, so the
//! Worker is a thin shell over it, and tests query a local engine.
//!
//! - Every query is bounded in time on both sides: `sql::points` is the only source of points.
//! - Figures over points are weighted by `_sample_interval`, since Analytics Engine may read one point in place of
//!   many. Figures over sandboxes are not weighted: Analytics Engine reads points of each.
//! - Whatever a sandbox writes, answers stay small: each query limits its rows and the length of texts, and a limit
//!   that one sandbox could use up applies per sandbox. A report names what it leaves out.
//! - Restarts are sums of the check-ins' deltas, since `totalRestarts` starts at 0 with each machine.
//! - Times are seconds since 1970 internally, and RFC 3339 in UTC in responses.

#![forbid(unsafe_code)]

mod clones;
mod crash_loops;
mod fleet;
mod fleet_history;
mod history;
mod incident;
mod incidents;
mod parameters;
mod patterns;
pub mod presence;
mod rows;
mod sandbox;
mod sandboxes;
mod sql;
mod time;

pub use fleet::{Facet, Fleet, FleetReport, LoadQuantiles};
pub use fleet_history::{FleetHistory, FleetHistoryReport, Series};
pub use history::{History, HistoryReport, Step};
pub use incident::{Incident, Severity};
pub use incidents::{IncidentTotals, Incidents, IncidentsReport};
pub use parameters::{InvalidParameter, Parameters, digits, duration, seconds};
pub use patterns::{FoundPatterns, PatternCandidates, Patterns};
pub use rows::{SortKey, UnexpectedAnswer, list, sorted};
pub use sandbox::{Load, Machine, Sandbox, SandboxAnswer, SandboxReport};
pub use sandboxes::{Sandboxes, SandboxesReport};
pub use sql::{LONGEST_TEXT, on_purpose};
pub use time::Time;

/// A report about the fleet. It queries in rounds; each round depends on the answers of the previous one.
pub trait Report {
    /// The queries of the first round, which are independent of each other.
    fn queries(&self) -> Vec<String>;

    /// Parses the answers to the last queries, in their order.
    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer>;
}

/// What follows a round of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another round.
    Query(Vec<String>),
    /// The report, as JSON; `None` if the subject was not found.
    Done(Option<String>),
}

impl Progress {
    /// Serializes the report.
    fn done(report: &impl serde::Serialize) -> Self {
        Self::Done(Some(kiloclaw_json::to_string(report)))
    }
}

/// The state of a machine that reports a planned stop.
const SHUT_DOWN: &str = "shutting_down";

/// States of a process that is off on purpose. A sandbox that falls silent in such a state is not an incident if its
/// own machine reported the state: [`on_purpose`] is the rule.
pub const ON_PURPOSE: [&str; 3] = [SHUT_DOWN, "stopped", "stopping"];

/// The time of a request, and what its principal may see.
#[derive(Clone, Copy, Debug)]
pub struct QueryScope<'a> {
    pub now: Time,
    /// The only sandbox that the principal may see, if there is a limit.
    pub only: Option<&'a str>,
}
