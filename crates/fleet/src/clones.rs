//! Clones: several machines that check in under one sandbox's id at the same time.
//!
//! A first query sums up each sandbox in one row; a second one reads the machines of possible clones.
//! Very many machines of one sandbox, from an attack or a broken deployment, are always an incident.

use crate::incident::{Incident, Severity};
use crate::parameters::DAY;
use crate::rows::{self, UnexpectedAnswer, list, row};
use crate::sql::{
    FIRST_SEEN, LAST_SEEN, MACHINE_ID, SANDBOX_ID, SUPERVISOR_STATE, in_pieces, start_of,
};
use crate::time::Time;
use crate::{QueryScope, SHUT_DOWN};

/// Maximum number of summed-up sandboxes: 1,000 x (2 texts of 576 B, and seven numbers) = 1.4 MB.
const MAX_SANDBOXES: usize = 1_000;

/// Maximum number of a sandbox's machines that are compared: 50, or 10 per day of a longer window. More machines cannot
/// be explained by redeployments, whether or not they overlap.
fn most_machines(window: u64) -> u64 {
    (window / DAY * 10).max(50)
}

/// Maximum number of machines in all: 2,000 x (2 texts of 576 B, and two numbers) = 2.6 MB.
const MAX_ROWS: u64 = 2_000;

/// Maximum number of queries for these machines.
pub(crate) const MAX_PIECES: usize = 8;

/// Maximum time between a machine's last ordinary check-in and its planned stop, in seconds: three check-ins.
const GOOD_BYE: u64 = 15 * 60;

/// One row per machine of each sandbox; check-ins without a machine id count as one machine.
///
/// A check-in that reports a planned stop does not extend a machine's time, so a replaced machine does not overlap with
/// its successor. If such check-ins continue, they count as ordinary ones. A machine with only such check-ins also
/// counts, unless they are so close to the start of the window that earlier check-ins may lie before it.
fn machines(scope: QueryScope<'_>, window: u64, condition: &str) -> String {
    let Time(settled) = scope.now.minus(window.saturating_sub(GOOD_BYE));
    let last_running =
        format!("max(if({SUPERVISOR_STATE} = '{SHUT_DOWN}', 0, toUnixTimestamp(timestamp)))");
    // One query: Analytics Engine accepts no subquery within a subquery.
    format!(
        "SELECT {SANDBOX_ID} AS sandboxId, {MACHINE_ID} AS machine, {FIRST_SEEN} AS firstSeen, \
         {LAST_SEEN} AS heard, {last_running} AS lastRunning, \
         if({LAST_SEEN} - {last_running} <= {GOOD_BYE}, {last_running}, {LAST_SEEN}) AS lastSeen \
         {}{condition} GROUP BY sandboxId, machine HAVING lastRunning > 0 OR heard > {settled}",
        scope.points(window),
    )
}

/// Queries the sandboxes of several machines, except those of two machines where one clearly replaced the other. The
/// longest overlaps come first.
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

row! {
    #[derive(Clone, Debug)]
    struct MachineSum {
        sandbox_id: String = "sandboxId",
        machines: u64 = "machines",
        /// Machines that still check in.
        current: u64 = "current",
        since: Time = "since",
        until: Time = "until",
        latest_machine: Option<String> = "latestMachine",
    }
}

row! {
    struct MachineRow {
        sandbox_id: String = "sandboxId",
        machine_id: Option<String> = "machineId",
        first_seen: Time = "firstSeen",
        last_seen: Time = "lastSeen",
    }
}

/// Possible clones.
#[derive(Clone, Debug)]
pub(crate) struct CloneCandidates {
    /// Sandboxes with too many machines to compare, which is always an incident.
    crowded: Vec<MachineSum>,
    /// Whether the limits cut candidates off.
    cut: bool,
}

impl CloneCandidates {
    /// Parses the sums, and returns the queries for the machines behind them.
    pub(crate) fn read(
        sums: &str,
        scope: QueryScope<'_>,
        window: u64,
    ) -> Result<(Self, Vec<String>), UnexpectedAnswer> {
        let sums: Vec<MachineSum> = rows::read(sums)?;
        let mut cut = sums.len() >= MAX_SANDBOXES;
        let (few, crowded): (Vec<_>, Vec<_>) =
            sums.into_iter().partition(|sum| sum.machines <= most_machines(window));
        let mut room = MAX_ROWS;
        let fitting = few.iter().take_while(|sum| {
            let fits = sum.machines <= room;
            room = room.saturating_sub(sum.machines);
            fits
        });
        let ids = list(fitting.map(|sum| &*sum.sandbox_id));
        let (queries, covered) = in_pieces(&ids, MAX_PIECES, &|condition| {
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

    /// Returns the clones, and whether some may be missing.
    pub(crate) fn find(
        self,
        answers: &[String],
        heard_since: Time,
    ) -> Result<(Vec<Incident>, bool), UnexpectedAnswer> {
        let severity = |until| {
            if until >= heard_since { Severity::Critical } else { Severity::Info }
        };
        let rows: Vec<MachineRow> = rows::read_all(answers)?;
        let rows = rows::sorted(rows, |row| {
            let times = [row.first_seen.0, u64::MAX - row.last_seen.0];
            ([0; 3], row.sandbox_id.clone(), times)
        });
        let mut found = Vec::new();
        for rows in rows.chunk_by(|a, b| a.sandbox_id == b.sandbox_id) {
            let (Some(row), Some(overlap)) = (rows.first(), overlap(rows)) else { continue };
            let Overlap { since, until, machine_ids } = overlap;
            found.push(Incident::Clone {
                severity: severity(until),
                sandbox_id: row.sandbox_id.clone(),
                since,
                until,
                machines: machine_ids.len() as u64,
                machine_ids,
            });
        }
        for sum in self.crowded {
            found.push(Incident::Clone {
                severity: if sum.current > 1 { Severity::Critical } else { Severity::Info },
                sandbox_id: sum.sandbox_id,
                since: sum.since,
                until: sum.until,
                machines: sum.machines,
                machine_ids: vec![sum.latest_machine],
            });
        }
        Ok((found, self.cut))
    }
}

/// Machines of one sandbox that were active at the same time.
struct Overlap {
    /// Start of the first overlap.
    since: Time,
    /// End of the last overlap.
    until: Time,
    machine_ids: Vec<Option<String>>,
}

/// Finds the machines of a sandbox whose check-ins overlap in time with those of another machine. `rows` are sorted by
/// first check-in.
fn overlap(rows: &[MachineRow]) -> Option<Overlap> {
    let mut found: Option<Overlap> = None;
    // The latest check-in of the machines so far, and the first check-in of the next machine.
    let mut last_seen = Time(0);
    let mut firsts = rows.iter().map(|row| row.first_seen);
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
            overlap.machine_ids.push(row.machine_id.clone());
        }
        last_seen = last_seen.max(row.last_seen);
    }
    found
}
