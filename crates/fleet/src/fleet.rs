//! `GET /api/fleet`: the state of the fleet at a glance.

use serde::Serialize;

use crate::parameters::{InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer, row};
use crate::sql::{
    BYTES_IN, BYTES_OUT, CHECK_INS, CONTROLLER_VERSION, FLY_REGION, LAST_SEEN, LOAD, MACHINE_ID,
    OPENCLAW_VERSION, RESTARTS, SAMPLE_INTERVAL, SANDBOX_ID, SUPERVISOR_STATE, latest, on_purpose,
    quantile, sum,
};
use crate::time::Time;
use crate::{Progress, QueryScope, Report};

/// Maximum number of combinations of state, versions and region. A row has four texts of at most 96 x 6 B and two
/// numbers: 2,000 x 2.4 kB = 4.8 MB.
const MAX_GROUPS: usize = 2_000;

/// The report behind `GET /api/fleet`.
#[derive(Clone, Debug)]
pub struct FleetReport<'a> {
    scope: QueryScope<'a>,
    window: u64,
    silent_after: u64,
}

impl<'a> FleetReport<'a> {
    /// Builds the report from a request's parameters.
    pub fn new(parameters: &Parameters, scope: QueryScope<'a>) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "silent_after"])?;
        let window = parameters.window()?;
        Ok(Self { scope, window, silent_after: parameters.silent_after(window)? })
    }

    /// Queries the numbers of sandboxes by state, versions and region; the largest groups come first.
    #[must_use]
    pub fn groups_sql(&self) -> String {
        let Time(heard_since) = self.scope.now.minus(self.silent_after);
        // Rows of the inner query are sandboxes, so they are counted without weight.
        format!(
            "SELECT supervisorState, controllerVersion, openclawVersion, flyRegion, \
             count() AS sandboxes, countIf(lastSeen >= {heard_since}) AS reporting \
             FROM (SELECT {SANDBOX_ID} AS sandboxId, {LAST_SEEN} AS lastSeen, \
             {} AS supervisorState, {} AS controllerVersion, {} AS openclawVersion, \
             {} AS flyRegion {} GROUP BY sandboxId) \
             GROUP BY supervisorState, controllerVersion, openclawVersion, flyRegion \
             ORDER BY sandboxes DESC LIMIT {MAX_GROUPS}",
            latest(SUPERVISOR_STATE),
            latest(CONTROLLER_VERSION),
            latest(OPENCLAW_VERSION),
            latest(FLY_REGION),
            self.scope.points(self.window),
        )
    }

    /// Queries the total number of sandboxes.
    #[must_use]
    pub fn sandboxes_sql(&self) -> String {
        let Time(heard_since) = self.scope.now.minus(self.silent_after);
        format!(
            "SELECT count() AS sandboxes, countIf(lastSeen >= {heard_since}) AS reporting, \
             countIf(lastSeen < {heard_since} AND onPurpose = 1) AS offOnPurpose, \
             countIf(restarts > 0) AS restarted \
             FROM (SELECT {SANDBOX_ID} AS sandboxId, {LAST_SEEN} AS lastSeen, \
             {} AS onPurpose, {} AS restarts {} GROUP BY sandboxId)",
            on_purpose(),
            sum(RESTARTS),
            self.scope.points(self.window),
        )
    }

    /// Queries the totals over all check-ins.
    #[must_use]
    pub fn totals_sql(&self) -> String {
        format!(
            "SELECT {CHECK_INS} AS checkIns, count(DISTINCT {MACHINE_ID}) AS machines, \
             countIf({MACHINE_ID} = '') AS withoutMachine, \
             {SAMPLE_INTERVAL} AS sampleInterval, {} AS restarts, \
             {} AS bandwidthBytesIn, {} AS bandwidthBytesOut, {} AS p50, {} AS p95 {}",
            sum(RESTARTS),
            sum(BYTES_IN),
            sum(BYTES_OUT),
            quantile("0.5", LOAD),
            quantile("0.95", LOAD),
            self.scope.points(self.window),
        )
    }

    /// Builds the response from the rows for [`sandboxes_sql`](Self::sandboxes_sql),
    /// [`totals_sql`](Self::totals_sql) and [`groups_sql`](Self::groups_sql).
    pub fn report(
        &self,
        sandboxes: &str,
        totals: &str,
        groups: &str,
    ) -> Result<Fleet, UnexpectedAnswer> {
        let sandboxes: Counts = rows::read_one(sandboxes)?;
        let totals: Totals = rows::read_one(totals)?;
        let groups: Vec<Group> = rows::read(groups)?;
        let complete = groups.len() < MAX_GROUPS;
        Ok(Fleet {
            as_of: self.scope.now,
            from: self.scope.now.minus(self.window),
            silent_after_seconds: self.silent_after,
            sandboxes: sandboxes.sandboxes,
            machines: totals.machines.saturating_sub(u64::from(totals.without_machine > 0)),
            check_ins: totals.check_ins,
            reporting: sandboxes.reporting,
            silent: sandboxes.sandboxes.saturating_sub(sandboxes.reporting),
            silent_after_shutdown: sandboxes.off_on_purpose,
            restarts: totals.restarts,
            restarted_sandboxes: sandboxes.restarted,
            bandwidth_bytes_in: totals.bandwidth_bytes_in,
            bandwidth_bytes_out: totals.bandwidth_bytes_out,
            load_avg_5m: LoadQuantiles { p50: totals.p50, p95: totals.p95 },
            supervisor_states: facets(&groups, |group| &group.supervisor_state),
            controller_versions: facets(&groups, |group| &group.controller_version),
            openclaw_versions: facets(&groups, |group| &group.openclaw_version),
            fly_regions: facets(&groups, |group| &group.fly_region),
            sample_interval: totals.sample_interval.max(1),
            complete,
            missing: if complete { Vec::new() } else { vec!["facets"] },
        })
    }
}

impl Report for FleetReport<'_> {
    fn queries(&self) -> Vec<String> {
        vec![self.sandboxes_sql(), self.totals_sql(), self.groups_sql()]
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        let [sandboxes, totals, groups] = answers else { return Err(UnexpectedAnswer::count()) };
        Ok(Progress::done(&self.report(sandboxes, totals, groups)?))
    }
}

row! {
    struct Counts {
        sandboxes: u64 = "sandboxes",
        reporting: u64 = "reporting",
        off_on_purpose: u64 = "offOnPurpose",
        restarted: u64 = "restarted",
    }
}

row! {
    /// Number of sandboxes with this combination.
    struct Group {
        supervisor_state: Option<String> = "supervisorState",
        controller_version: Option<String> = "controllerVersion",
        openclaw_version: Option<String> = "openclawVersion",
        fly_region: Option<String> = "flyRegion",
        sandboxes: u64 = "sandboxes",
        reporting: u64 = "reporting",
    }
}

row! {
    struct Totals {
        check_ins: u64 = "checkIns",
        /// Includes `""` if some check-ins have no machine id.
        machines: u64 = "machines",
        without_machine: u64 = "withoutMachine",
        sample_interval: u64 = "sampleInterval",
        restarts: u64 = "restarts",
        bandwidth_bytes_in: u64 = "bandwidthBytesIn",
        bandwidth_bytes_out: u64 = "bandwidthBytesOut",
        p50: Option<f64> = "p50",
        p95: Option<f64> = "p95",
    }
}

/// The state of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// Time of the request.
    pub as_of: Time,
    /// Only check-ins after this time count.
    pub from: Time,
    /// Seconds without a check-in until a sandbox is silent.
    pub silent_after_seconds: u64,
    /// Sandboxes that checked in within the window.
    pub sandboxes: u64,
    /// Machines of these sandboxes, if they report ids.
    pub machines: u64,
    pub check_ins: u64,
    /// Sandboxes that still check in.
    pub reporting: u64,
    pub silent: u64,
    /// Silent sandboxes that are off [on purpose](crate::ON_PURPOSE), which is not an incident.
    pub silent_after_shutdown: u64,
    /// Restarts of the supervised process.
    pub restarts: u64,
    /// Sandboxes with at least one restart.
    pub restarted_sandboxes: u64,
    pub bandwidth_bytes_in: u64,
    pub bandwidth_bytes_out: u64,
    /// Load averages of the check-ins.
    pub load_avg_5m: LoadQuantiles,
    /// Sandboxes by their latest state.
    pub supervisor_states: Vec<Facet>,
    /// By their latest controller version.
    pub controller_versions: Vec<Facet>,
    /// By their latest OpenClaw version.
    pub openclaw_versions: Vec<Facet>,
    /// By their latest region.
    pub fly_regions: Vec<Facet>,
    /// Highest sampling interval: 1 if Analytics Engine read every point. If it is higher, sandboxes may be missing,
    /// and some sandboxes that seem silent are not.
    pub sample_interval: u64,
    /// Whether `missing` is empty.
    pub complete: bool,
    /// `facets` if there are too many combinations of state, versions and region. Then counts by these omit the
    /// smallest groups; all other figures are complete.
    pub missing: Vec<&'static str>,
}

/// Distribution of the load; null without check-ins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadQuantiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
}

/// The sandboxes with one value of a property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facet {
    /// The value; null if unknown.
    pub value: Option<String>,
    /// Number of sandboxes.
    pub sandboxes: u64,
    /// Number of sandboxes that still check in.
    pub reporting: u64,
}

/// Counts by one property; the largest first.
fn facets(groups: &[Group], by: fn(&Group) -> &Option<String>) -> Vec<Facet> {
    let groups = rows::sorted(rows::list(groups), |group| {
        ([0; 3], by(group).clone().unwrap_or_default(), [0; 2])
    });
    let mut facets: Vec<Facet> = Vec::new();
    for group in groups {
        let value = by(group);
        match facets.last_mut() {
            Some(facet) if facet.value == *value => {
                facet.sandboxes += group.sandboxes;
                facet.reporting += group.reporting;
            }
            _ => facets.push(Facet {
                value: value.clone(),
                sandboxes: group.sandboxes,
                reporting: group.reporting,
            }),
        }
    }
    rows::sorted(facets, |facet| {
        let value = facet.value.clone().unwrap_or_default();
        ([u64::MAX - facet.sandboxes, 0, 0], value, [0; 2])
    })
}
