#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the inside is being written")]

mod availability;
mod decide;
mod delivery;
mod message;
pub mod schema;
mod settings;
mod state;
mod tick;
mod transition;

pub use availability::{Availability, availability};
pub use decide::{Outcome, decide};
pub use delivery::{
    Answer, Channel, Delivery, OutboxRow, Request, TIMEOUT_MS, Target, TargetError, begin,
    is_safe_url, settle,
};
pub use message::{MessageType, test_messages};
pub use settings::{SettingError, Settings, VARIABLES, seconds};
pub use state::{
    AbsenceError, AbsenceRequest, Change, Health, MAX_ABSENCE, MAX_NAMED, MAX_REASON,
    MAX_SANDBOXES, MAX_WIDE_ABSENCES, Open, PlannedAbsence, Scope, State,
};
pub use tick::{CANARY_DATASET, Next, Observation, Tick};
pub use transition::{Happened, KEEP_TRANSITIONS, Kind, Transition, transition_rows};
