//! What operators ask of the check-ins, and what they are answered.
//!
//! Each question is a type: it is [made](FleetReport::new) of a request's parameters, says what to
//! ask in Analytics Engine's SQL, and makes an answer of the rows that come back. Pure: no HTTP, no
//! clock, so that the Worker is a thin shell over it and the tests can ask a local engine.
//!
//! - Every query is bounded in time, on both sides: `sql::points` is the only way to them.
//! - Every figure over points is weighted by `_sample_interval`: Analytics Engine may keep one point
//!   of many. Figures over sandboxes are not: it keeps points of each.
//! - Whatever a sandbox wrote, no answer is large: each query has a LIMIT on rows, each row a limit on its
//!   texts, and a limit that one sandbox could use up is per sandbox. What a report leaves out, it names.
//! - Restarts are summed from the delta of each check-in: `totalRestarts` starts again with the machine.
//! - Times are seconds since 1970 on the way and RFC 3339 in UTC in answers.

#![forbid(unsafe_code)]

mod clones;
mod crash_loops;
mod fleet;
mod history;
mod incident;
mod incidents;
mod parameters;
mod rows;
mod sandbox;
mod sandboxes;
mod sql;
mod time;

pub use fleet::{Facet, Fleet, FleetReport, LoadQuantiles};
pub use history::{History, HistoryReport, Step};
pub use incident::{Incident, Severity};
pub use incidents::{IncidentTotals, Incidents, IncidentsReport};
pub use parameters::{InvalidParameter, Parameters};
pub use rows::UnexpectedAnswer;
pub use sandbox::{Load, Machine, Sandbox, SandboxAnswer, SandboxReport};
pub use sandboxes::{Sandboxes, SandboxesReport};
pub use sql::on_purpose;
pub use time::Time;

/// A question about the fleet: asked in rounds, each made of the answers of the one before.
pub trait Report {
    /// The queries of the first round. They do not depend on one another.
    fn queries(&self) -> Vec<String>;

    /// Reads the answers to the queries asked last, in their order.
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
    /// Writes a report.
    fn done(report: &impl serde::Serialize) -> Result<Self, UnexpectedAnswer> {
        Ok(Self::Done(Some(serde_json::to_string(report)?)))
    }
}

/// The state of a machine that says good-bye.
const SHUT_DOWN: &str = "shutting_down";

/// The states of a process that is off on purpose. A sandbox that falls silent in one of them is no
/// incident, if it was its own machine that said so: [`on_purpose`] is the rule.
pub const ON_PURPOSE: [&str; 3] = [SHUT_DOWN, "stopped", "stopping"];

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct QueryScope<'a> {
    /// The present time.
    pub now: Time,
    /// The only sandbox that the operator may see, if they may not see all.
    pub only: Option<&'a str>,
}
