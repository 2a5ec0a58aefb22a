//! `GET /api/incidents`: what an operator should look at, the worst first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::parameters::{HOUR, InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer};
use crate::sql::{
    CHECK_INS, FIRST_SEEN, FLY_REGION, LAST_EXIT_REASON, LAST_SEEN, MACHINE_ID, RESTARTS,
    SAMPLE_INTERVAL, SANDBOX_ID, SUPERVISOR_STATE, latest, one_of, points,
};
use crate::time::{Span, Time};
use crate::{Asked, Question, SHUT_DOWN};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// A process that restarts this often within an hour is in a crash loop.
const CRASH_LOOP: f64 = 3.0;

/// How many silent sandboxes, check-ins with restarts and sandboxes on several machines are looked at.
const MAX_SILENT: usize = 10_000;
const MAX_RESTARTS: usize = 20_000;
const MAX_CLONES: usize = 500;

/// What is wrong?
#[derive(Clone, Debug)]
pub struct IncidentsQuestion<'a> {
    asked: Asked<'a>,
    window: u64,
    silent_after: u64,
    limit: usize,
}

impl<'a> IncidentsQuestion<'a> {
    /// The question that a request's parameters ask.
    pub fn new(parameters: &Parameters, asked: Asked<'a>) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "silent_after", "limit"])?;
        let window = parameters.window()?;
        let silent_after = parameters.silent_after(window)?;
        let limit = parameters.integer("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
        Ok(Self { asked, window, silent_after, limit })
    }

    fn heard_since(&self) -> Time {
        self.asked.now.minus(self.silent_after)
    }

    /// Asks whether anybody checks in at all.
    #[must_use]
    pub fn anybody_sql(&self) -> String {
        let points = self.asked.points(self.window);
        format!(
            "SELECT {CHECK_INS} AS checkIns, {LAST_SEEN} AS lastSeen, \
             {SAMPLE_INTERVAL} AS sampleInterval {points}"
        )
    }

    /// Asks for the sandboxes that are not heard of any more.
    #[must_use]
    pub fn silent_sql(&self) -> String {
        let Time(heard_since) = self.heard_since();
        format!(
            "SELECT {SANDBOX_ID} AS sandboxId, {LAST_SEEN} AS lastSeen, {} AS supervisorState, \
             {} AS machineId, {} AS flyRegion {} GROUP BY sandboxId \
             HAVING lastSeen < {heard_since} ORDER BY lastSeen LIMIT {MAX_SILENT}",
            latest(SUPERVISOR_STATE),
            latest(MACHINE_ID),
            latest(FLY_REGION),
            self.asked.points(self.window),
        )
    }

    /// Asks for the check-ins that tell of restarts, the latest first.
    #[must_use]
    pub fn restarts_sql(&self) -> String {
        format!(
            "SELECT {SANDBOX_ID} AS sandboxId, toUnixTimestamp(timestamp) AS time, \
             {RESTARTS} * _sample_interval AS restarts, {LAST_EXIT_REASON} AS lastExitReason \
             {} AND {RESTARTS} > 0 ORDER BY time DESC LIMIT {MAX_RESTARTS}",
            self.asked.points(self.window),
        )
    }

    /// Asks for the sandboxes that several machines checked in for, unless one clearly followed the
    /// other. A machine that says good-bye after its successor's first check-in does not count.
    #[must_use]
    pub fn clones_sql(&self) -> String {
        format!(
            "SELECT sandboxId, count() AS machines, max(firstSeen) AS latestFirst, \
             min(lastSeen) AS earliestLast FROM ({}) GROUP BY sandboxId \
             HAVING machines > 2 OR (machines = 2 AND latestFirst < earliestLast) \
             ORDER BY machines DESC, sandboxId LIMIT {MAX_CLONES}",
            self.machines(""),
        )
    }

    /// Asks for the machines of the sandboxes that [`clones_sql`](Self::clones_sql) found; nothing if
    /// there are none.
    pub fn machines_sql(&self, clones: &str) -> Result<Option<String>, UnexpectedAnswer> {
        let clones: Vec<IdRow> = rows::read(clones)?;
        if clones.is_empty() {
            return Ok(None);
        }
        let condition =
            format!(" AND {}", one_of(SANDBOX_ID, clones.iter().map(|row| &*row.sandbox_id)));
        Ok(Some(format!("{} ORDER BY sandboxId, firstSeen, machineId", self.machines(&condition))))
    }

    /// Asks which of the silent sandboxes are heard of after all; nothing if no check-in was left out.
    ///
    /// Over many sandboxes and a long time, Analytics Engine looks at some points only, and whoever is
    /// not among them seems silent. Asked for these sandboxes and the last minutes, it looks at all.
    pub fn heard_sql(
        &self,
        anybody: &str,
        silent: &str,
    ) -> Result<Option<String>, UnexpectedAnswer> {
        let anybody: Anybody = rows::read_one(anybody)?;
        let silent: Vec<SilentRow> = rows::read(silent)?;
        if anybody.sample_interval <= 1 || silent.is_empty() {
            return Ok(None);
        }
        let span = Span { after: self.heard_since().minus(1), until: self.asked.now };
        Ok(Some(format!(
            "SELECT {SANDBOX_ID} AS sandboxId {} AND {} GROUP BY sandboxId",
            points(span, self.asked.only),
            one_of(SANDBOX_ID, silent.iter().take(MAX_LIMIT).map(|row| &*row.sandbox_id)),
        )))
    }

    /// The follow-ups, as far as there are any.
    fn both(&self, answers: &[String]) -> Result<[Option<String>; 2], UnexpectedAnswer> {
        let [anybody, silent, _, clones, ..] = answers else {
            return Err(UnexpectedAnswer::count());
        };
        Ok([self.machines_sql(clones)?, self.heard_sql(anybody, silent)?])
    }

    /// A row for each machine of each sandbox.
    fn machines(&self, condition: &str) -> String {
        format!(
            "SELECT {SANDBOX_ID} AS sandboxId, {MACHINE_ID} AS machineId, \
             {FIRST_SEEN} AS firstSeen, {LAST_SEEN} AS lastSeen {} AND {MACHINE_ID} != '' \
             AND {SUPERVISOR_STATE} != '{}'{condition} GROUP BY sandboxId, machineId",
            self.asked.points(self.window),
            SHUT_DOWN,
        )
    }

    /// Makes the answer of the rows for the queries of the same names; `machines` and `heard` if they
    /// were asked.
    pub fn answer(
        &self,
        anybody: &str,
        silent: &str,
        restarts: &str,
        machines: Option<&str>,
        heard: Option<&str>,
    ) -> Result<Incidents, UnexpectedAnswer> {
        let anybody: Anybody = rows::read_one(anybody)?;
        let mut silent: Vec<SilentRow> = rows::read(silent)?;
        let restarts: Vec<RestartRow> = rows::read(restarts)?;
        let machines: Vec<MachineRow> = machines.map_or(Ok(Vec::new()), rows::read)?;
        let complete = silent.len() < MAX_SILENT && restarts.len() < MAX_RESTARTS;
        let heard: Vec<IdRow> = heard.map_or(Ok(Vec::new()), rows::read)?;
        let heard: BTreeSet<_> = heard.iter().map(|row| &*row.sandbox_id).collect();
        silent.retain(|row| !heard.contains(&*row.sandbox_id));

        let mut incidents = Vec::new();
        if self.asked.only.is_none()
            && anybody.check_ins > 0
            && anybody.last_seen < self.heard_since()
        {
            incidents.push(Incident::NoCheckIns {
                severity: Severity::Critical,
                since: anybody.last_seen,
            });
        }
        incidents.extend(clones(machines, self.heard_since()));
        incidents.extend(crash_loops(restarts, self.asked.now));
        incidents.extend(silent.into_iter().map(SilentRow::into_incident));

        let count =
            |is: fn(&Incident) -> bool| incidents.iter().filter(|incident| is(incident)).count();
        let totals = IncidentTotals {
            clones: count(|incident| matches!(incident, Incident::Clone { .. })),
            crash_loops: count(|incident| matches!(incident, Incident::CrashLoop { .. })),
            silent: count(|incident| matches!(incident, Incident::Silent { .. })),
        };
        incidents.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()));
        incidents.truncate(self.limit);
        Ok(Incidents {
            as_of: self.asked.now,
            from: self.asked.now.minus(self.window),
            silent_after_seconds: self.silent_after,
            totals,
            incidents,
            complete,
        })
    }
}

impl Question for IncidentsQuestion<'_> {
    fn queries(&self) -> Vec<String> {
        vec![self.anybody_sql(), self.silent_sql(), self.restarts_sql(), self.clones_sql()]
    }

    fn follow_ups(&self, answers: &[String]) -> Result<Vec<String>, UnexpectedAnswer> {
        Ok(self.both(answers)?.into_iter().flatten().collect())
    }

    fn reply(&self, answers: &[String]) -> Result<Option<String>, UnexpectedAnswer> {
        let [anybody, silent, restarts, _, follow_ups @ ..] = answers else {
            return Err(UnexpectedAnswer::count());
        };
        let mut follow_ups = follow_ups.iter();
        let [machines, heard] = self
            .both(answers)?
            .map(|asked| asked.and_then(|_| follow_ups.next()).map(String::as_str));
        let answer = self.answer(anybody, silent, restarts, machines, heard)?;
        Ok(Some(serde_json::to_string(&answer)?))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Anybody {
    #[serde(deserialize_with = "rows::whole")]
    check_ins: u64,
    last_seen: Time,
    #[serde(deserialize_with = "rows::whole")]
    sample_interval: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SilentRow {
    sandbox_id: String,
    last_seen: Time,
    supervisor_state: String,
    #[serde(deserialize_with = "rows::known")]
    machine_id: Option<String>,
    #[serde(deserialize_with = "rows::known")]
    fly_region: Option<String>,
}

impl SilentRow {
    fn into_incident(self) -> Incident {
        let on_purpose =
            matches!(self.supervisor_state.as_str(), SHUT_DOWN | "stopped" | "stopping");
        Incident::Silent {
            severity: if on_purpose { Severity::Info } else { Severity::Critical },
            sandbox_id: self.sandbox_id,
            since: self.last_seen,
            supervisor_state: self.supervisor_state,
            machine_id: self.machine_id,
            fly_region: self.fly_region,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestartRow {
    sandbox_id: String,
    time: Time,
    #[serde(deserialize_with = "rows::number")]
    restarts: f64,
    #[serde(deserialize_with = "rows::known")]
    last_exit_reason: Option<String>,
}

/// Finds the sandboxes that restarted too often within an hour, wherever the hour starts. The latest
/// check-ins come first.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn crash_loops(rows: Vec<RestartRow>, now: Time) -> impl Iterator<Item = Incident> {
    let mut by_sandbox = BTreeMap::<String, Vec<RestartRow>>::new();
    for row in rows {
        by_sandbox.entry(row.sandbox_id.clone()).or_default().push(row);
    }
    by_sandbox.into_iter().filter_map(move |(sandbox_id, rows)| {
        // The hour that ends with each check-in, in turn; `earlier` is the first one before it.
        let (mut within, mut most) = (0.0, 0.0_f64);
        let mut earlier = rows.iter().peekable();
        for row in &rows {
            while let Some(next) = earlier.next_if(|next| row.time.since(next.time) < HOUR) {
                within += next.restarts;
            }
            most = most.max(within);
            within -= row.restarts;
        }
        if most < CRASH_LOOP {
            return None;
        }
        let latest = rows.first()?;
        let sum =
            |rows: &mut dyn Iterator<Item = &RestartRow>| rows.map(|row| row.restarts).sum::<f64>();
        let restarts = sum(&mut rows.iter());
        let lately = sum(&mut rows.iter().filter(|row| now.since(row.time) < HOUR));
        let ongoing = lately >= CRASH_LOOP;
        Some(Incident::CrashLoop {
            severity: if ongoing { Severity::Critical } else { Severity::Warning },
            sandbox_id,
            since: rows.last()?.time,
            last_restart: latest.time,
            restarts: restarts.round() as u64,
            most_in_an_hour: most.round() as u64,
            last_exit_reason: latest.last_exit_reason.clone(),
        })
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdRow {
    sandbox_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MachineRow {
    sandbox_id: String,
    machine_id: String,
    first_seen: Time,
    last_seen: Time,
}

/// Finds the sandboxes of which one machine went on checking in after another had begun. Rows come by
/// sandbox and by when the machine was first seen.
fn clones(rows: Vec<MachineRow>, heard_since: Time) -> Vec<Incident> {
    let mut by_sandbox = BTreeMap::<String, Vec<MachineRow>>::new();
    for row in rows {
        by_sandbox.entry(row.sandbox_id.clone()).or_default().push(row);
    }
    let mut found = Vec::new();
    for (sandbox_id, rows) in by_sandbox {
        // The machines that overlap with another, and from when to when there were two.
        let mut machine_ids: Vec<String> = Vec::new();
        let mut since: Option<Time> = None;
        let mut until = Time(0);
        for (i, row) in rows.iter().enumerate() {
            for other in rows.iter().skip(i + 1).filter(|other| other.first_seen < row.last_seen) {
                since = Some(since.map_or(other.first_seen, |since| since.min(other.first_seen)));
                until = until.max(row.last_seen.min(other.last_seen));
                for machine in [row, other] {
                    if !machine_ids.contains(&machine.machine_id) {
                        machine_ids.push(machine.machine_id.clone());
                    }
                }
            }
        }
        let Some(since) = since else { continue };
        let severity = if until >= heard_since { Severity::Critical } else { Severity::Info };
        found.push(Incident::Clone { severity, sandbox_id, since, until, machine_ids });
    }
    found
}

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
        /// The machines.
        machine_ids: Vec<String>,
    },
    /// The supervised process restarts again and again.
    CrashLoop {
        /// Critical if it does so now.
        severity: Severity,
        /// The sandbox.
        sandbox_id: String,
        /// The first check-in within the window that tells of a restart.
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
        /// Info if it had said that it would stop.
        severity: Severity,
        /// The sandbox.
        sandbox_id: String,
        /// Its last check-in.
        since: Time,
        /// The state that it told then.
        supervisor_state: String,
        /// The machine that it ran on.
        machine_id: Option<String>,
        /// The region that it checked in through.
        fly_region: Option<String>,
    },
}

impl Incident {
    /// What incidents are sorted by: how bad, of what kind, how much of it.
    fn rank(&self) -> (Severity, u8, Reverse<u64>, Time, &str) {
        match self {
            Self::NoCheckIns { severity, since } => (*severity, 0, Reverse(0), *since, ""),
            Self::Clone { severity, sandbox_id, since, machine_ids, .. } => {
                (*severity, 1, Reverse(machine_ids.len() as u64), *since, sandbox_id)
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

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incidents {
    /// When this was asked.
    pub as_of: Time,
    /// Check-ins after this time are looked at.
    pub from: Time,
    /// How long a sandbox is not heard of until it is silent.
    pub silent_after_seconds: u64,
    /// How many there are, also of those that are over the limit.
    pub totals: IncidentTotals,
    /// The worst first.
    pub incidents: Vec<Incident>,
    /// Whether all was looked at: false if there is too much of it.
    pub complete: bool,
}

/// Incidents by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentTotals {
    /// Sandboxes on several machines at a time.
    pub clones: usize,
    /// Sandboxes that restarted too often within an hour.
    pub crash_loops: usize,
    /// Sandboxes that are not heard of any more.
    pub silent: usize,
}
