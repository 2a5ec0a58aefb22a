//! Transitions: the log behind `/api/alerts` and availability.

use kiloclaw_fleet::{Time, list};
use serde::Serialize;

use crate::settings::DAY;

/// How long transitions are kept, in seconds.
pub const KEEP_TRANSITIONS: u64 = 400 * DAY;

/// A kind of incident or status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A sandbox no longer checks in.
    Silent,
    /// A sandbox no longer checks in, and its last check-in says that this is on purpose.
    Stopped,
    /// A sandbox no longer checks in, as planned.
    Absent,
    /// A sandbox is not back from its planned absence.
    Overdue,
    /// It falls silent and returns again and again.
    Flapping,
    /// Its process restarts again and again.
    CrashLoop,
    /// Several machines check in under its id.
    Clone,
    /// A region, or the fleet, fell silent.
    Quiet,
    /// Analytics Engine is late or does not answer.
    Degraded,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Silent,
        Self::Stopped,
        Self::Absent,
        Self::Overdue,
        Self::Flapping,
        Self::CrashLoop,
        Self::Clone,
        Self::Quiet,
        Self::Degraded,
    ];

    /// As the API and the table have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Overdue => "overdue",
            Self::Flapping => "flapping",
            Self::CrashLoop => "crash_loop",
            Self::Clone => "clone",
            Self::Quiet => "quiet",
            Self::Degraded => "degraded",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Opened,
    Closed,
}

impl Event {
    /// As the API and the table have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
        }
    }
}

/// A row of the table `transitions`. For each kind and subject, `opened` and `closed` alternate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When the watcher found it.
    pub at: Time,
    /// What kind of incident.
    pub kind: Kind,
    /// What happened to it.
    pub event: Event,
    /// The sandbox's id; for `quiet` the scope's key (`*` is the fleet, `=fra` a region); for `degraded` "".
    pub subject: String,
    /// When it began: for a sandbox that does not report, its last check-in.
    pub since: Time,
    /// When it ended: for a sandbox that returned, its first check-in. Only if closed.
    pub until: Option<Time>,
    /// The region of the last check-in, at most 96 characters; empty if unknown.
    pub region: String,
    /// The reason, for people; at most 300 characters.
    pub reason: String,
    /// Whether a message was sent. Other transitions are only recorded.
    pub sent: bool,
}

/// Transitions for [`PUT_TRANSITIONS`](crate::schema::PUT_TRANSITIONS): a JSON array of arrays, in the order of its
/// columns.
#[must_use]
pub fn transition_rows(transitions: &[Transition]) -> String {
    kiloclaw_json::to_string(&list(transitions.iter().map(|row| {
        (
            row.at.0,
            row.kind.name(),
            row.event.name(),
            &*row.subject,
            row.since.0,
            row.until.map(|until| until.0),
            &*row.region,
            &*row.reason,
            u8::from(row.sent),
        )
    })))
}
