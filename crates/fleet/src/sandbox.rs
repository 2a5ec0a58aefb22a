//! `GET /api/sandboxes/{sandboxId}`: one sandbox, its latest state and the sums of its check-ins.

use serde::Serialize;

use crate::parameters::{self, InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer, row};
use crate::sql::{
    self, BYTES_IN, BYTES_OUT, CHECK_INS, CONTROLLER_COMMIT, CONTROLLER_VERSION, DISK_TOTAL,
    DISK_USED, FIRST_SEEN, FLY_REGION, LAST_EXIT_REASON, LAST_SEEN, LOAD, MACHINE_ID,
    OPENCLAW_COMMIT, OPENCLAW_VERSION, RESTARTS, SANDBOX_ID, SUPERVISOR_STATE, TOTAL_RESTARTS,
    UPTIME, highest, latest, quantile, start_of, sum,
};
use crate::time::{Span, Time};
use crate::{Progress, Report};

/// Maximum number of machines in a response.
const MAX_MACHINES: usize = 100;

/// The report behind `GET /api/sandboxes/{sandboxId}`.
#[derive(Clone, Debug)]
pub struct SandboxReport {
    now: Time,
    sandbox: String,
    window: u64,
    silent_after: u64,
}

impl SandboxReport {
    /// Builds the report from a request's path and parameters. The caller checks that the principal may see the
    /// sandbox.
    pub fn new(
        sandbox: &str,
        parameters: &Parameters,
        now: Time,
    ) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "silent_after"])?;
        let window = parameters.window()?;
        Ok(Self {
            now,
            sandbox: parameters::sandbox_id(sandbox)?,
            window,
            silent_after: parameters.silent_after(window)?,
        })
    }

    fn points(&self) -> String {
        sql::points(Span::last(self.window, self.now), Some(&self.sandbox))
    }

    /// Queries the latest state and the sums.
    #[must_use]
    pub fn sandbox_sql(&self) -> String {
        format!(
            "SELECT {}, {} AS p50, {} AS p95, {} AS highest {} GROUP BY sandboxId",
            columns(),
            quantile("0.5", LOAD),
            quantile("0.95", LOAD),
            highest(LOAD),
            self.points(),
        )
    }

    /// Queries the machines, the latest first.
    #[must_use]
    pub fn machines_sql(&self) -> String {
        format!(
            "SELECT {} AS machineId, firstSeen, lastSeen, checkIns \
             FROM (SELECT {MACHINE_ID} AS machine, {FIRST_SEEN} AS firstSeen, \
             {LAST_SEEN} AS lastSeen, {CHECK_INS} AS checkIns {} GROUP BY machine) \
             ORDER BY lastSeen DESC, machineId LIMIT {MAX_MACHINES}",
            start_of("machine"),
            self.points(),
        )
    }

    /// Builds the response from the rows for [`sandbox_sql`](Self::sandbox_sql) and
    /// [`machines_sql`](Self::machines_sql); `None` if the sandbox was not seen.
    pub fn answer(
        &self,
        sandbox: &str,
        machines: &str,
    ) -> Result<Option<SandboxAnswer>, UnexpectedAnswer> {
        let found = rows::read::<Sandbox>(sandbox)?.pop();
        let load = rows::read::<Load>(sandbox)?.pop();
        let Some((mut sandbox, load)) = found.zip(load) else { return Ok(None) };
        sandbox.set_silent(self.now.minus(self.silent_after));
        Ok(Some(SandboxAnswer {
            as_of: self.now,
            from: self.now.minus(self.window),
            silent_after_seconds: self.silent_after,
            sandbox,
            load,
            machines: rows::read(machines)?,
        }))
    }
}

impl Report for SandboxReport {
    fn queries(&self) -> Vec<String> {
        vec![self.sandbox_sql(), self.machines_sql()]
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        let [sandbox, machines] = answers else { return Err(UnexpectedAnswer::count()) };
        match self.answer(sandbox, machines)? {
            Some(answer) => Ok(Progress::done(&answer)),
            None => Ok(Progress::Done(None)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxAnswer {
    /// Time of the request.
    pub as_of: Time,
    /// Only check-ins after this time count.
    pub from: Time,
    /// Seconds without a check-in until a sandbox is silent.
    pub silent_after_seconds: u64,
    /// Its latest state, and its sums over the window.
    pub sandbox: Sandbox,
    /// Its load average over the window.
    pub load: Load,
    /// Its machines, the latest first. Several at the same time are an [incident](crate::Incident).
    pub machines: Vec<Machine>,
}

/// The columns of a sandbox in any query, with the names in [`Sandbox`].
pub(crate) fn columns() -> String {
    format!(
        "{SANDBOX_ID} AS sandboxId, {FIRST_SEEN} AS firstSeen, {LAST_SEEN} AS lastSeen, \
         {} AS supervisorState, {} AS machineId, {} AS flyRegion, {} AS controllerVersion, \
         {} AS controllerCommit, {} AS openclawVersion, {} AS openclawCommit, \
         {} AS lastExitReason, {} AS uptimeSeconds, {} AS loadAvg5m, {} AS diskUsedBytes, \
         {} AS diskTotalBytes, {} AS totalRestarts, \
         {CHECK_INS} AS checkIns, {} AS restarts, {} AS bandwidthBytesIn, \
         {} AS bandwidthBytesOut",
        latest(SUPERVISOR_STATE),
        latest(MACHINE_ID),
        latest(FLY_REGION),
        latest(CONTROLLER_VERSION),
        latest(CONTROLLER_COMMIT),
        latest(OPENCLAW_VERSION),
        latest(OPENCLAW_COMMIT),
        latest(LAST_EXIT_REASON),
        latest(UPTIME),
        latest(LOAD),
        latest(DISK_USED),
        latest(DISK_TOTAL),
        latest(TOTAL_RESTARTS),
        sum(RESTARTS),
        sum(BYTES_IN),
        sum(BYTES_OUT),
    )
}

row! {
    /// A sandbox: its latest state, and its sums over the window. Unknown values are null.
    #[derive(Clone, Debug, PartialEq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Sandbox {
        pub sandbox_id: String = "sandboxId",
        /// Whether it is silent, which is not in its row.
        pub silent: bool,
        /// The first check-in within the window.
        pub first_seen: Time = "firstSeen",
        /// The last one.
        pub last_seen: Time = "lastSeen",
        /// The state of the supervised process.
        pub supervisor_state: String = "supervisorState",
        pub machine_id: Option<String> = "machineId",
        /// The region of its last check-in.
        pub fly_region: Option<String> = "flyRegion",
        pub controller_version: String = "controllerVersion",
        pub controller_commit: String = "controllerCommit",
        /// Version of OpenClaw, the supervised process.
        pub openclaw_version: Option<String> = "openclawVersion",
        /// Commit of OpenClaw.
        pub openclaw_commit: Option<String> = "openclawCommit",
        /// Last exit reason of the supervised process: `signal:<NAME>` or `code:<N>`.
        pub last_exit_reason: Option<String> = "lastExitReason",
        /// Uptime of the supervised process in seconds.
        pub uptime_seconds: f64 = "uptimeSeconds",
        /// The latest load average.
        pub load_avg_5m: f64 = "loadAvg5m",
        /// The latest disk usage in bytes; null if unknown.
        #[serde(serialize_with = "rows::known")]
        pub disk_used_bytes: f64 = "diskUsedBytes",
        /// The disk's size in bytes; null if unknown.
        #[serde(serialize_with = "rows::known")]
        pub disk_total_bytes: f64 = "diskTotalBytes",
        /// The machine's own restart counter, which starts at 0 with the machine.
        pub total_restarts: u64 = "totalRestarts",
        /// Check-ins within the window.
        pub check_ins: u64 = "checkIns",
        /// Restarts within the window. Exact, since a cursor compares them; serialized as a whole number.
        #[serde(serialize_with = "rows::in_ones")]
        pub restarts: f64 = "restarts",
        /// Received bytes within the window.
        pub bandwidth_bytes_in: u64 = "bandwidthBytesIn",
        /// Sent bytes within the window.
        pub bandwidth_bytes_out: u64 = "bandwidthBytesOut",
    }
}

impl Sandbox {
    /// Sets whether it is silent: it did not check in since this time.
    pub(crate) fn set_silent(&mut self, heard_since: Time) {
        self.silent = self.last_seen < heard_since;
    }
}

row! {
    /// A machine that a sandbox ran on.
    #[derive(Clone, Debug, PartialEq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Machine {
        /// Its id; null if unknown.
        pub machine_id: Option<String> = "machineId",
        /// Its first check-in within the window.
        pub first_seen: Time = "firstSeen",
        /// Its last check-in.
        pub last_seen: Time = "lastSeen",
        /// Its check-ins within the window.
        pub check_ins: u64 = "checkIns",
    }
}

row! {
    /// Load average over the window.
    #[derive(Clone, Debug, PartialEq, Serialize)]
    pub struct Load {
        pub p50: Option<f64> = "p50",
        pub p95: Option<f64> = "p95",
        #[serde(rename = "max")]
        pub highest: Option<f64> = "highest",
    }
}
