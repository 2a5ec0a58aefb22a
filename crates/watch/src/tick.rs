//! A tick's questions to Analytics Engine, and what their answers show.

use kiloclaw_fleet::{Time, UnexpectedAnswer};

use crate::settings::Settings;
use crate::state::State;

/// Where the canaries are written to.
pub const CANARY_DATASET: &str = "kiloclaw_watcher";

/// A tick's questions: rounds of queries, each made of the answers before.
///
/// It holds what it needs of the state, so that the state can change while answers are awaited.
#[derive(Clone, Debug)]
pub struct Tick {
    now: Time,
}

/// What follows a round of answers.
#[derive(Clone, Debug)]
pub enum Next {
    /// Another round of queries.
    Query(Vec<String>),
    /// All is known that this tick asks for.
    Done(Observation),
}

/// What Analytics Engine showed at a time.
#[derive(Clone, Debug)]
pub struct Observation {
    _now: Time,
}

impl Observation {
    /// That of a tick whose queries failed: `why` is for a person, without secrets.
    #[must_use]
    pub fn failed(now: Time, why: &str) -> Self {
        let _ = why;
        Self { _now: now }
    }
}

impl Tick {
    /// Starts a tick, and returns its first round of queries.
    #[must_use]
    pub fn start(settings: &Settings, state: &State, now: Time) -> (Self, Vec<String>) {
        let _ = (settings, state);
        (Self { now }, vec![])
    }

    /// Reads the answers to the queries asked last, in their order.
    ///
    /// The answer to a query of a dataset that does not exist yet is `{"data":[]}`.
    pub fn read(&mut self, answers: &[String]) -> Result<Next, UnexpectedAnswer> {
        let _ = answers;
        Ok(Next::Done(Observation { _now: self.now }))
    }
}
