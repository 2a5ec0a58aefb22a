//! From what is observed and what was known to what changed.

use kiloclaw_fleet::Time;

use crate::delivery::{Channel, OutboxRow};
use crate::settings::Settings;
use crate::state::{Change, State};
use crate::tick::Observation;
use crate::transition::Transition;

/// What a tick changes: all of it belongs into one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For the table `state`.
    pub changes: Vec<Change>,
    /// For the table `transitions`.
    pub transitions: Vec<Transition>,
    /// For the table `outbox`.
    pub outbox: Vec<OutboxRow>,
    /// What to write as the canary's number, after the transaction.
    pub canary: u64,
    /// Whether all is well with the watcher itself, so that the dead-man URL may be pinged.
    pub good: bool,
}

/// Decides what changed. `channels` are those that are configured and not turned off.
///
/// Changes the state in memory: if the transaction fails, throw it away and [load](State::load) it again.
#[must_use]
pub fn decide(
    settings: &Settings,
    state: &mut State,
    channels: &[Channel],
    now: Time,
    observation: Observation,
) -> Outcome {
    let _ = (settings, channels, observation);
    state.own.ticked = now;
    Outcome { changes: vec![state.own_change()], canary: now.0, ..Outcome::default() }
}
