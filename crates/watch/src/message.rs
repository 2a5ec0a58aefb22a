//! What is said, to whom, in which words.

use kiloclaw_fleet::Time;

use crate::delivery::{Channel, OutboxRow};
use crate::settings::Settings;
use crate::state::State;

/// The types of messages, as receivers see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum MessageType {
    FleetQuiet,
    FleetRecovered,
    WatcherDegraded,
    WatcherRecovered,
    SandboxSilent,
    SandboxOverdue,
    SandboxCrashLoop,
    SandboxClone,
    SandboxFlapping,
    SandboxRecovered,
    WatcherTest,
}

impl MessageType {
    /// As the message has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FleetQuiet => "fleet.quiet",
            Self::FleetRecovered => "fleet.recovered",
            Self::WatcherDegraded => "watcher.degraded",
            Self::WatcherRecovered => "watcher.recovered",
            Self::SandboxSilent => "sandbox.silent",
            Self::SandboxOverdue => "sandbox.overdue",
            Self::SandboxCrashLoop => "sandbox.crash_loop",
            Self::SandboxClone => "sandbox.clone",
            Self::SandboxFlapping => "sandbox.flapping",
            Self::SandboxRecovered => "sandbox.recovered",
            Self::WatcherTest => "watcher.test",
        }
    }
}

/// A test message for each of these channels, and the watcher's own row, which counts messages.
pub fn test_messages(
    settings: &Settings,
    state: &mut State,
    channels: &[Channel],
    now: Time,
) -> (Vec<OutboxRow>, crate::Change) {
    let _ = (settings, channels, now);
    (vec![], state.own_change())
}
