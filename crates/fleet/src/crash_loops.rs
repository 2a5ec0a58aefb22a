//! Crash loops: processes that restart too often within any hour.
//!
//! A first query sums up each sandbox in one row, so that one sandbox's restarts cannot hide others. A second query
//! reads the check-ins behind these sums, which show how close together the restarts were.

use crate::QueryScope;
use crate::incident::{Incident, Severity};
use crate::parameters::{DAY, HOUR};
use crate::rows::{self, UnexpectedAnswer, list, row};
use crate::sql::{LAST_EXIT_REASON, RESTARTS, SANDBOX_ID, in_pieces, latest, sum, weighed};
use crate::time::Time;

/// This many restarts within an hour are a crash loop.
const CRASH_LOOP: u32 = 3;

/// Maximum number of summed-up sandboxes. A row has an id and an exit reason, 2 x 96 x 6 B = 1,152 B at most, and six
/// numbers: 2,000 x 1.4 kB = 2.8 MB.
const MAX_SANDBOXES: usize = 2_000;

/// If a sandbox reports restarts in more check-ins than this (one day of five-minute intervals), only the last day is
/// searched, in steps.
const MAX_CHECK_INS: u64 = DAY / STEP;

/// Length of such a step in seconds: an ordinary machine's check-in interval.
const STEP: u64 = 300;

/// Maximum number of rows behind the sums: 5,000 x (576 B for the id, and two numbers) = 3.5 MB.
const MAX_ROWS: u64 = 5_000;

/// Maximum number of queries for these rows, of each kind.
pub(crate) const MAX_PIECES: usize = 4;

/// Queries the sandboxes with enough restarts; those that restart now come first.
pub(crate) fn sums_sql(scope: QueryScope<'_>, window: u64) -> String {
    let Time(lately) = scope.now.minus(HOUR);
    format!(
        "SELECT {SANDBOX_ID} AS sandboxId, {} AS restarts, \
         sumIf({}, timestamp > toDateTime({lately})) AS lately, count() AS checkIns, \
         toUnixTimestamp(min(timestamp)) AS firstRestart, \
         toUnixTimestamp(max(timestamp)) AS lastRestart, {} AS lastExitReason \
         {} AND {RESTARTS} > 0 GROUP BY sandboxId HAVING restarts >= {CRASH_LOOP} \
         ORDER BY lately DESC, restarts DESC, sandboxId LIMIT {MAX_SANDBOXES}",
        sum(RESTARTS),
        weighed(RESTARTS),
        latest(LAST_EXIT_REASON),
        scope.points(window),
    )
}

row! {
    #[derive(Clone, Debug)]
    struct RestartSum {
        sandbox_id: String = "sandboxId",
        restarts: f64 = "restarts",
        lately: f64 = "lately",
        check_ins: u64 = "checkIns",
        first_restart: Time = "firstRestart",
        last_restart: Time = "lastRestart",
        last_exit_reason: Option<String> = "lastExitReason",
    }
}

impl RestartSum {
    const fn is_heavy(&self) -> bool {
        self.check_ins > MAX_CHECK_INS
    }
}

row! {
    struct RestartRow {
        sandbox_id: String = "sandboxId",
        time: Time = "time",
        restarts: f64 = "restarts",
    }
}

/// Possible crash loops.
#[derive(Clone, Debug)]
pub(crate) struct CrashLoopCandidates {
    sums: Vec<RestartSum>,
    /// Whether the limits cut candidates off.
    cut: bool,
}

impl CrashLoopCandidates {
    /// Parses the sums, and returns the queries for the check-ins behind them.
    pub(crate) fn read(
        sums: &str,
        scope: QueryScope<'_>,
        window: u64,
    ) -> Result<(Self, Vec<String>), UnexpectedAnswer> {
        let sums: Vec<RestartSum> = rows::read(sums)?;
        let mut cut = sums.len() >= MAX_SANDBOXES;
        let mut room = MAX_ROWS;
        let (mut light, mut heavy, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for sum in sums {
            let rows = sum.check_ins.min(MAX_CHECK_INS + 1);
            let group = if rows > room {
                &mut others
            } else {
                room -= rows;
                if sum.is_heavy() { &mut heavy } else { &mut light }
            };
            group.push(sum);
        }

        let query = |step: u64, window: u64| {
            let all = scope.points(window);
            move |condition: &str| {
                let time = format!("intDiv(toUnixTimestamp(timestamp), {step}) * {step}");
                format!(
                    "SELECT {SANDBOX_ID} AS sandboxId, {time} AS time, {} AS restarts \
                     {all} AND {RESTARTS} > 0 AND {condition} GROUP BY sandboxId, time \
                     ORDER BY sandboxId, time DESC LIMIT {MAX_ROWS}",
                    sum(RESTARTS),
                )
            }
        };
        let (mut queries, covered) = in_pieces(&ids(&light), MAX_PIECES, &query(1, window));
        others.append(&mut light.split_off(covered));
        let (mut more, covered) =
            in_pieces(&ids(&heavy), MAX_PIECES, &query(STEP, window.min(DAY)));
        others.append(&mut heavy.split_off(covered));
        queries.append(&mut more);

        // A sandbox that is not searched may have been in a crash loop earlier.
        cut |= others.iter().any(|sum| sum.lately < f64::from(CRASH_LOOP));
        light.append(&mut heavy);
        light.append(&mut others);
        Ok((Self { sums: light, cut }, queries))
    }

    /// Returns the crash loops, and whether some may be missing.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    pub(crate) fn find(
        self,
        answers: &[String],
    ) -> Result<(Vec<Incident>, bool), UnexpectedAnswer> {
        let rows: Vec<RestartRow> = rows::read_all(answers)?;
        let rows = rows::sorted(rows, |row| ([0; 3], row.sandbox_id.clone(), [0; 2]));
        let by_sandbox = list(rows.chunk_by(|a, b| a.sandbox_id == b.sandbox_id));
        let mut cut = self.cut;
        let mut found = Vec::new();
        for sum in self.sums {
            let id = Some(&*sum.sandbox_id);
            let index = by_sandbox.partition_point(|rows| id_of(rows) < id);
            let rows = by_sandbox.get(index).filter(|rows| id_of(rows) == id);
            let rows = rows.copied().unwrap_or_default();
            let most = most_in_an_hour(rows).max(sum.lately);
            if most < f64::from(CRASH_LOOP) {
                // It may have been in a crash loop before the last day.
                cut |= sum.is_heavy();
                continue;
            }
            let ongoing = sum.lately >= f64::from(CRASH_LOOP);
            found.push(Incident::CrashLoop {
                severity: if ongoing { Severity::Critical } else { Severity::Warning },
                sandbox_id: sum.sandbox_id,
                since: sum.first_restart,
                last_restart: sum.last_restart,
                restarts: sum.restarts.round() as u64,
                most_in_an_hour: most.round() as u64,
                last_exit_reason: sum.last_exit_reason,
            });
        }
        Ok((found, cut))
    }
}

fn ids(sums: &[RestartSum]) -> Vec<&str> {
    list(sums.iter().map(|sum| &*sum.sandbox_id))
}

/// The sandbox of these rows, which all have the same.
fn id_of<'a>(rows: &&'a [RestartRow]) -> Option<&'a str> {
    rows.first().map(|row| &*row.sandbox_id)
}

/// The most restarts within an hour. `rows` are of one sandbox, the latest first.
fn most_in_an_hour(rows: &[RestartRow]) -> f64 {
    // The hour that ends with each row; `earlier` is the first row before that hour.
    let (mut within, mut most) = (0.0, 0.0_f64);
    let mut earlier = rows.iter().peekable();
    for RestartRow { time, restarts, .. } in rows {
        while let Some(other) = earlier.next_if(|other| time.since(other.time) < HOUR) {
            within += other.restarts;
        }
        most = most.max(within);
        within -= restarts;
    }
    most
}
