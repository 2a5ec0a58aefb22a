//! `GET /api/sandboxes/{sandboxId}/history`: one sandbox over time.

use serde::Serialize;

use crate::parameters::{self, InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer, row};
use crate::sql::{
    self, BYTES_IN, BYTES_OUT, CHECK_INS, CONTROLLER_VERSION, DISK_TOTAL, DISK_USED,
    LAST_EXIT_REASON, LOAD, OPENCLAW_VERSION, RESTARTS, SUPERVISOR_STATE, UPTIME, highest, latest,
    sum,
};
use crate::time::{Span, Time};
use crate::{Progress, Report};

/// Default length of a step: a healthy machine's check-in interval.
const DEFAULT_STEP: u64 = 5 * 60;

/// Maximum number of steps: a week in steps of five minutes. A row has four texts of at most 96 x 6 B and ten numbers:
/// 2,017 x 2.7 kB = 5.4 MB.
const MAX_STEPS: u64 = 2_016;

/// The report behind `GET /api/sandboxes/{sandboxId}/history`.
#[derive(Clone, Debug)]
pub struct HistoryReport {
    now: Time,
    sandbox: String,
    /// The start of the first step.
    from: Time,
    step: u64,
}

impl HistoryReport {
    /// Builds the report from a request's path and parameters. The caller checks that the principal may see the
    /// sandbox.
    pub fn new(
        sandbox: &str,
        parameters: &Parameters,
        now: Time,
    ) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "step"])?;
        let window = parameters.window()?;
        let step = parameters.step(window, DEFAULT_STEP, MAX_STEPS)?;
        let sandbox = parameters::sandbox_id(sandbox)?;
        // Whole steps only: a partial one would look like a drop.
        Ok(Self { now, sandbox, from: now.minus(window).start_of(step), step })
    }

    /// Queries the sums of each step.
    #[must_use]
    pub fn sql(&self) -> String {
        let Self { now, from, step, .. } = *self;
        // A span excludes its start.
        let span = Span { after: from.minus(1), until: now };
        format!(
            "SELECT intDiv(toUnixTimestamp(timestamp), {step}) * {step} AS start, \
             {CHECK_INS} AS checkIns, {} AS restarts, {} / {CHECK_INS} AS loadAvg5m, \
             {} AS loadMax, {} AS bandwidthBytesIn, {} AS bandwidthBytesOut, \
             {} AS supervisorState, {} AS uptimeSeconds, {} AS lastExitReason, \
             {} AS controllerVersion, {} AS openclawVersion, {} AS diskUsedBytes, {} AS diskTotalBytes \
             {} GROUP BY start ORDER BY start",
            sum(RESTARTS),
            sum(LOAD),
            highest(LOAD),
            sum(BYTES_IN),
            sum(BYTES_OUT),
            latest(SUPERVISOR_STATE),
            latest(UPTIME),
            latest(LAST_EXIT_REASON),
            latest(CONTROLLER_VERSION),
            latest(OPENCLAW_VERSION),
            latest(DISK_USED),
            latest(DISK_TOTAL),
            sql::points(span, Some(&self.sandbox)),
        )
    }

    /// Builds the response from the rows for [`sql`](Self::sql); `None` if the sandbox was not seen.
    pub fn answer(&self, steps: &str) -> Result<Option<History>, UnexpectedAnswer> {
        let mut found = rows::read::<Step>(steps)?.into_iter().peekable();
        if found.peek().is_none() {
            return Ok(None);
        }
        let mut steps = Vec::new();
        let mut start = self.from;
        while start <= self.now {
            steps.push(
                found.next_if(|step| step.start <= start).unwrap_or_else(|| Step::silent(start)),
            );
            start = Time(start.0 + self.step);
        }
        Ok(Some(History {
            as_of: self.now,
            from: self.from,
            step_seconds: self.step,
            sandbox_id: self.sandbox.clone(),
            steps,
        }))
    }
}

impl Report for HistoryReport {
    fn queries(&self) -> Vec<String> {
        vec![self.sql()]
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        let [steps] = answers else { return Err(UnexpectedAnswer::count()) };
        match self.answer(steps)? {
            Some(answer) => Ok(Progress::done(&answer)),
            None => Ok(Progress::Done(None)),
        }
    }
}

/// A sandbox over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Time of the request; the last step ends here.
    pub as_of: Time,
    /// The start of the first step.
    pub from: Time,
    /// Length of a step in seconds.
    pub step_seconds: u64,
    pub sandbox_id: String,
    /// All steps, including those without a check-in.
    pub steps: Vec<Step>,
}

row! {
    /// Aggregates of one step; without check-ins, everything except counts is null.
    #[derive(Clone, Debug, PartialEq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Step {
        /// Start of the step.
        pub start: Time = "start",
        pub check_ins: u64 = "checkIns",
        /// Restarts of the supervised process.
        pub restarts: u64 = "restarts",
        /// The mean load average.
        pub load_avg_5m: Option<f64> = "loadAvg5m",
        /// The highest load average.
        pub load_max: Option<f64> = "loadMax",
        pub bandwidth_bytes_in: u64 = "bandwidthBytesIn",
        pub bandwidth_bytes_out: u64 = "bandwidthBytesOut",
        /// State at the end of the step.
        pub supervisor_state: Option<String> = "supervisorState",
        /// Uptime of the supervised process at the end of the step, in seconds.
        pub uptime_seconds: Option<f64> = "uptimeSeconds",
        /// Last exit reason of the supervised process.
        pub last_exit_reason: Option<String> = "lastExitReason",
        /// Version of the controller at the end of the step.
        pub controller_version: Option<String> = "controllerVersion",
        /// Version of `OpenClaw` at the end of the step.
        pub openclaw_version: Option<String> = "openclawVersion",
        /// Disk usage at the end of the step, in bytes; null if unknown.
        #[serde(serialize_with = "rows::known")]
        pub disk_used_bytes: f64 = "diskUsedBytes",
        /// The disk's size in bytes; null if unknown.
        #[serde(serialize_with = "rows::known")]
        pub disk_total_bytes: f64 = "diskTotalBytes",
    }
}

impl Step {
    fn silent(start: Time) -> Self {
        Self { start, ..Self::default() }
    }
}
