#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod availability;
mod decide;
mod delivery;
mod message;
#[cfg(test)]
mod scenarios;
pub mod schema;
mod settings;
#[cfg(test)]
mod simulation;
mod state;
mod tick;
mod transition;

pub use availability::{Availability, availability};
pub use decide::{Outcome, decide};
pub use delivery::{
    Attempt, Channel, Delivery, OutboxRow, Request, TIMEOUT_MS, Target, after_attempt,
    before_attempt, is_safe_url, read_heartbeat,
};
pub use message::test_messages;
pub use settings::{SettingError, Settings};
pub use state::{
    AbsenceError, AbsenceRequest, Health, MAX_ATTENTION, MAX_NAMED, MAX_SANDBOXES,
    MAX_WIDE_ABSENCES, Open, OpenAlert, PlannedAbsence, Scope, State, StateChange,
};
pub use tick::{CANARY_DATASET, MAX_ROUNDS, Next, Observation, Tick};
pub use transition::{Event, KEEP_TRANSITIONS, Kind, Transition, transition_rows};
