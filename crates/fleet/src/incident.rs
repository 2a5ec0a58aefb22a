use serde::Serialize;

use crate::rows::SortKey;
use crate::time::Time;

/// How urgent an incident is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The problem exists now.
    Critical,
    /// The problem has passed, and may return.
    Warning,
    /// The problem has passed, or is on purpose.
    Info,
}

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Incident {
    /// No check-ins at all: suspect the ingest path.
    NoCheckIns {
        /// Critical.
        severity: Severity,
        /// The last check-in.
        since: Time,
    },
    /// Several machines check in under one sandbox's id at the same time.
    Clone {
        /// Critical if all machines still check in.
        severity: Severity,
        sandbox_id: String,
        /// Start of the first overlap.
        since: Time,
        /// End of the last overlap.
        until: Time,
        /// Number of overlapping machines; the number of all machines if there are too many to compare.
        machines: u64,
        /// Machine ids by first check-in, null for a machine without an id; only the last one if there are too many
        /// machines to compare.
        machine_ids: Vec<Option<String>>,
    },
    /// The supervised process restarts again and again.
    CrashLoop {
        /// Critical if the process still does so.
        severity: Severity,
        sandbox_id: String,
        /// The first check-in within the window that reports a restart.
        since: Time,
        /// The last check-in that reports a restart.
        last_restart: Time,
        /// Restarts within the window.
        restarts: u64,
        /// The most restarts within an hour.
        most_in_an_hour: u64,
        /// Last exit reason of the process.
        last_exit_reason: Option<String>,
    },
    /// A sandbox stopped checking in.
    Silent {
        /// Info if it is off on purpose.
        severity: Severity,
        sandbox_id: String,
        /// Its last check-in.
        since: Time,
        /// The state in its last check-in.
        supervisor_state: String,
        /// Its machine.
        machine_id: Option<String>,
        /// Its region.
        fly_region: Option<String>,
    },
}

impl Incident {
    /// Sort key: severity and kind, extent, time, sandbox.
    pub(crate) fn rank(&self) -> SortKey {
        let (severity, kind, extent, since, sandbox) = match self {
            Self::NoCheckIns { severity, since } => (severity, 0, 0, since, ""),
            Self::Clone { severity, sandbox_id, since, machines, .. } => {
                (severity, 1, *machines, since, &**sandbox_id)
            }
            Self::CrashLoop { severity, sandbox_id, since, most_in_an_hour, .. } => {
                (severity, 2, *most_in_an_hour, since, &**sandbox_id)
            }
            Self::Silent { severity, sandbox_id, since, .. } => {
                (severity, 3, 0, since, &**sandbox_id)
            }
        };
        ([*severity as u64 * 4 + kind, u64::MAX - extent, since.0], sandbox.to_owned(), [0; 2])
    }
}
