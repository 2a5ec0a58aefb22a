//! Clones: several machines that check in under one sandbox's id at the same time.
//!
//! First each sandbox is summed up in one row; then the machines of those that may be cloned are asked for.
//! A great many machines, which only an attack or a broken deployment makes, are an incident by themselves.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::incident::{Incident, Severity};
use crate::parameters::DAY;
use crate::rows::{self, UnexpectedAnswer};
use crate::sql::{
    FIRST_SEEN, LAST_SEEN, MACHINE_ID, SANDBOX_ID, SUPERVISOR_STATE, in_pieces, start_of,
};
use crate::time::Time;
use crate::{QueryScope, SHUT_DOWN};

/// The most sandboxes that are summed up: 1,000 x (2 texts of 576 B, and seven numbers) = 1.4 MB.
const MAX_SANDBOXES: usize = 1_000;

/// The most machines of a sandbox that are looked at one by one: 50, or 10 for each day of a longer window.
/// More than this are not redeployed machines, whether or not they follow one another.
fn most_machines(window: u64) -> u64 {
    (window / DAY * 10).max(50)
}

/// The most machines that are looked at: 2,000 x (2 texts of 576 B, and two numbers) = 2.6 MB.
const MAX_ROWS: u64 = 2_000;

/// The most queries for them.
pub(crate) const MAX_PIECES: usize = 8;

/// How long after its last ordinary check-in a machine's good-bye comes at most, in seconds: three check-ins.
const GOOD_BYE: u64 = 15 * 60;

/// A row for each machine of each sandbox; one without an id is a machine like the others.
///
/// A machine that says good-bye when its successor is there already is none that goes on. Where good-byes are
/// not the end, they are check-ins like others; and good-byes alone are a machine, too, unless the window has
/// just begun, and what came before them lies outside.
fn machines(scope: QueryScope<'_>, window: u64, condition: &str) -> String {
    let Time(settled) = scope.now.minus(window.saturating_sub(GOOD_BYE));
    let last_running =
        format!("max(if({SUPERVISOR_STATE} = '{SHUT_DOWN}', 0, toUnixTimestamp(timestamp)))");
    // One query, as Analytics Engine takes no subquery within another.
    format!(
        "SELECT {SANDBOX_ID} AS sandboxId, {MACHINE_ID} AS machine, {FIRST_SEEN} AS firstSeen, \
         {LAST_SEEN} AS heard, {last_running} AS lastRunning, \
         if({LAST_SEEN} - {last_running} <= {GOOD_BYE}, {last_running}, {LAST_SEEN}) AS lastSeen \
         {}{condition} GROUP BY sandboxId, machine HAVING lastRunning > 0 OR heard > {settled}",
        scope.points(window),
    )
}

/// Asks for the sandboxes of several machines, unless there are two of which one clearly followed the
/// other. First come those whose machines were there together the longest.
pub(crate) fn sums_sql(scope: QueryScope<'_>, window: u64, heard_since: Time) -> String {
    let Time(heard_since) = heard_since;
    format!(
        "SELECT sandboxId, count() AS machines, countIf(lastSeen >= {heard_since}) AS current, \
         min(firstSeen) AS since, max(firstSeen) AS latestFirst, \
         argMin(lastSeen, firstSeen) AS earlierLast, max(lastSeen) AS until, \
         sum(lastSeen - firstSeen) - (max(lastSeen) - min(firstSeen)) AS overlap, \
         {} AS latestMachine FROM ({}) GROUP BY sandboxId \
         HAVING machines > 2 OR (machines = 2 AND \
         (latestFirst < earlierLast OR (latestFirst = since AND since < until))) \
         ORDER BY overlap DESC, sandboxId LIMIT {MAX_SANDBOXES}",
        start_of("argMax(machine, lastSeen)"),
        machines(scope, window, ""),
    )
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sum {
    sandbox_id: String,
    #[serde(deserialize_with = "rows::whole")]
    machines: u64,
    /// Those that are heard of now.
    #[serde(deserialize_with = "rows::whole")]
    current: u64,
    since: Time,
    until: Time,
    #[serde(deserialize_with = "rows::known")]
    latest_machine: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    sandbox_id: String,
    #[serde(deserialize_with = "rows::known")]
    machine_id: Option<String>,
    first_seen: Time,
    last_seen: Time,
}

/// The sandboxes that may be cloned.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    /// Those with too many machines to look at, which is an incident by itself.
    crowded: Vec<Sum>,
    /// Whether there may be more.
    cut: bool,
}

impl Candidates {
    /// Reads the sums, and asks for the machines behind them.
    pub(crate) fn read(
        sums: &str,
        scope: QueryScope<'_>,
        window: u64,
    ) -> Result<(Self, Vec<String>), UnexpectedAnswer> {
        let sums: Vec<Sum> = rows::read(sums)?;
        let mut cut = sums.len() >= MAX_SANDBOXES;
        let (few, crowded): (Vec<_>, Vec<_>) =
            sums.into_iter().partition(|sum| sum.machines <= most_machines(window));
        let mut room = MAX_ROWS;
        let fitting = few.iter().take_while(|sum| {
            let fits = sum.machines <= room;
            room = room.saturating_sub(sum.machines);
            fits
        });
        let ids = fitting.map(|sum| &*sum.sandbox_id);
        let (queries, covered) = in_pieces(ids, MAX_PIECES, |condition| {
            let condition = format!(" AND {condition}");
            format!(
                "SELECT sandboxId, {} AS machineId, firstSeen, lastSeen FROM ({}) \
                 ORDER BY sandboxId, firstSeen LIMIT {MAX_ROWS}",
                start_of("machine"),
                machines(scope, window, &condition),
            )
        });
        cut |= covered < few.len();
        Ok((Self { crowded, cut }, queries))
    }

    /// Finds the clones; also whether some may be missing.
    pub(crate) fn find(
        self,
        answers: &[String],
        heard_since: Time,
    ) -> Result<(Vec<Incident>, bool), UnexpectedAnswer> {
        let severity = |until| {
            if until >= heard_since { Severity::Critical } else { Severity::Info }
        };
        let mut by_sandbox = BTreeMap::<String, Vec<Row>>::new();
        for answer in answers {
            for row in rows::read::<Row>(answer)? {
                by_sandbox.entry(row.sandbox_id.clone()).or_default().push(row);
            }
        }
        let mut found: Vec<_> = by_sandbox
            .into_iter()
            .filter_map(|(sandbox_id, rows)| {
                let Overlap { since, until, machine_ids } = overlap(rows)?;
                let machines = machine_ids.len() as u64;
                let severity = severity(until);
                Some(Incident::Clone { severity, sandbox_id, since, until, machines, machine_ids })
            })
            .collect();
        found.extend(self.crowded.into_iter().map(|sum| Incident::Clone {
            severity: if sum.current > 1 { Severity::Critical } else { Severity::Info },
            sandbox_id: sum.sandbox_id,
            since: sum.since,
            until: sum.until,
            machines: sum.machines,
            machine_ids: vec![sum.latest_machine],
        }));
        Ok((found, self.cut))
    }
}

/// Machines that were there together.
struct Overlap {
    /// From when on.
    since: Time,
    /// Until when.
    until: Time,
    machine_ids: Vec<Option<String>>,
}

/// Finds the machines of a sandbox that went on checking in after another had begun, or began before
/// another ended. n log n.
fn overlap(mut rows: Vec<Row>) -> Option<Overlap> {
    rows.sort_by_key(|row| (row.first_seen, Reverse(row.last_seen)));
    let mut found: Option<Overlap> = None;
    // When the machines so far were last seen, and the next one was first.
    let mut last_seen = Time(0);
    let mut firsts = rows.iter().map(|row| row.first_seen).collect::<Vec<_>>().into_iter();
    firsts.next();
    for row in rows {
        let goes_on = firsts.next().is_some_and(|next| next < row.last_seen);
        let begins_early = row.first_seen < last_seen;
        if begins_early || goes_on {
            let overlap = found.get_or_insert_with(|| Overlap {
                since: Time(u64::MAX),
                until: Time(0),
                machine_ids: Vec::new(),
            });
            if begins_early {
                overlap.since = overlap.since.min(row.first_seen);
                overlap.until = overlap.until.max(row.last_seen.min(last_seen));
            }
            overlap.machine_ids.push(row.machine_id);
        }
        last_seen = last_seen.max(row.last_seen);
    }
    found
}
