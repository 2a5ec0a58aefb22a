//! What an incident is, of whatever kind.

use std::cmp::Reverse;

use serde::Serialize;

use crate::time::Time;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is so now.
    Critical,
    /// It was so, and may be so again.
    Warning,
    /// It was so, or is meant to be.
    Info,
}

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Incident {
    /// The whole fleet is silent: the way to here is down rather than every sandbox.
    NoCheckIns {
        /// Critical.
        severity: Severity,
        /// The last check-in.
        since: Time,
    },
    /// Several machines check in under one sandbox's id at the same time.
    Clone {
        /// Critical if all of them are heard of now.
        severity: Severity,
        /// The sandbox.
        sandbox_id: String,
        /// When there were two for the first time.
        since: Time,
        /// When there were two for the last time.
        until: Time,
        /// How many machines there were together; of too many to look at, all that were seen.
        machines: u64,
        /// The machines, those first seen first, and null for one without an id; of too many to look at,
        /// the one last seen.
        machine_ids: Vec<Option<String>>,
    },
    /// The supervised process restarts again and again.
    CrashLoop {
        /// Critical if it does so now.
        severity: Severity,
        /// The sandbox.
        sandbox_id: String,
        /// The first check-in within the window that reports a restart.
        since: Time,
        /// The last one.
        last_restart: Time,
        /// Restarts within the window.
        restarts: u64,
        /// The most within an hour.
        most_in_an_hour: u64,
        /// How the process ended the last time.
        last_exit_reason: Option<String>,
    },
    /// A sandbox is not heard of any more.
    Silent {
        /// Info if it is off on purpose.
        severity: Severity,
        /// The sandbox.
        sandbox_id: String,
        /// Its last check-in.
        since: Time,
        /// The state that it reported then.
        supervisor_state: String,
        /// The machine that it ran on.
        machine_id: Option<String>,
        /// The region that it checked in through.
        fly_region: Option<String>,
    },
}

impl Incident {
    /// What incidents are sorted by: how bad, of what kind, how much of it.
    pub(crate) fn rank(&self) -> (Severity, u8, Reverse<u64>, Time, &str) {
        match self {
            Self::NoCheckIns { severity, since } => (*severity, 0, Reverse(0), *since, ""),
            Self::Clone { severity, sandbox_id, since, machines, .. } => {
                (*severity, 1, Reverse(*machines), *since, sandbox_id)
            }
            Self::CrashLoop { severity, sandbox_id, since, most_in_an_hour, .. } => {
                (*severity, 2, Reverse(*most_in_an_hour), *since, sandbox_id)
            }
            Self::Silent { severity, sandbox_id, since, .. } => {
                (*severity, 3, Reverse(0), *since, sandbox_id)
            }
        }
    }
}
