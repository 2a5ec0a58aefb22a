//! What operators ask of the check-ins, and what they are answered.
//!
//! Each question is a type: it is [made](FleetQuestion::new) of a request's parameters, says what to
//! ask in Analytics Engine's SQL, and makes an answer of the rows that come back. Pure: no HTTP, no
//! clock, so that the Worker is a thin shell over it and the tests can ask a local engine.
//!
//! - Every query is bounded in time, on both sides: `sql::points` is the only way to them.
//! - Every figure over points is weighted by `_sample_interval`: Analytics Engine may keep one point
//!   of many. Figures over sandboxes are not: it keeps points of each.
//! - Restarts are summed from the delta of each check-in: `totalRestarts` starts again with the machine.
//! - Times are seconds since 1970 on the way and RFC 3339 in UTC in answers.

#![forbid(unsafe_code)]

mod fleet;
mod history;
mod incidents;
mod parameters;
mod rows;
mod sandbox;
mod sandboxes;
mod sql;
mod time;

pub use fleet::{Facet, Fleet, FleetQuestion, LoadQuantiles};
pub use history::{History, HistoryQuestion, Step};
pub use incidents::{Incident, IncidentTotals, Incidents, IncidentsQuestion, Severity};
pub use parameters::{InvalidParameter, Parameters};
pub use rows::UnexpectedAnswer;
pub use sandbox::{Load, Machine, Sandbox, SandboxAnswer, SandboxQuestion};
pub use sandboxes::{Sandboxes, SandboxesQuestion};
pub use time::Time;

/// A question about the fleet.
pub trait Question {
    /// What to ask Analytics Engine. The queries do not depend on one another.
    fn queries(&self) -> Vec<String>;

    /// What to ask when the answers to these are there.
    fn follow_ups(&self, answers: &[String]) -> Result<Vec<String>, UnexpectedAnswer> {
        let _ = answers;
        Ok(Vec::new())
    }

    /// What to reply, as JSON, with the answers to all queries in their order, follow-ups last; none if nothing is known
    /// of what was asked.
    fn reply(&self, answers: &[String]) -> Result<Option<String>, UnexpectedAnswer>;
}

/// The state of a machine that says good-bye: whoever is silent after it is silent on purpose.
const SHUT_DOWN: &str = "shutting_down";

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The present time.
    pub now: Time,
    /// The only sandbox that the operator may see, if they may not see all.
    pub only: Option<&'a str>,
}
