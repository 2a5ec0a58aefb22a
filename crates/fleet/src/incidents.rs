//! `GET /api/incidents`: what an operator should look at, the worst first.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::incident::{Incident, Severity};
use crate::parameters::{InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer};
use crate::sql::{
    CHECK_INS, FLY_REGION, LAST_SEEN, MACHINE_ID, SAMPLE_INTERVAL, SANDBOX_ID, SUPERVISOR_STATE,
    in_pieces, latest, on_purpose, points,
};
use crate::time::{Span, Time};
use crate::{Progress, QueryScope, Report, clones, crash_loops};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// The silent sandboxes that are looked at: as many as an answer can show. Others are counted. A row has
/// four texts of 96 x 6 B at most and two numbers: 1,000 x 2.5 kB = 2.5 MB.
const MAX_SILENT: usize = MAX_LIMIT;

/// The most queries that ask for silent sandboxes again. An id of 96 bytes that no literal can have takes up
/// 196 characters of a query: 1,000 of them fit into 21.
const MAX_PIECES: usize = 24;

/// The most queries of a report. On Cloudflare's free plan a request may make 50 subrequests, of which the
/// cache takes two and Access' keys one.
const MAX_QUERIES: usize = 4 + clones::MAX_PIECES + 2 * crash_loops::MAX_PIECES + MAX_PIECES;
const _: () = assert!(MAX_QUERIES <= 47);

/// What is wrong?
#[derive(Clone, Debug)]
pub struct IncidentsReport<'a> {
    scope: QueryScope<'a>,
    window: u64,
    silent_after: u64,
    limit: usize,
    /// What the first round found.
    candidates: Option<Candidates>,
}

impl<'a> IncidentsReport<'a> {
    /// The question that a request's parameters ask.
    pub fn new(parameters: &Parameters, scope: QueryScope<'a>) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "silent_after", "limit"])?;
        let window = parameters.window()?;
        let silent_after = parameters.silent_after(window)?;
        let limit = parameters.integer("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
        Ok(Self { scope, window, silent_after, limit, candidates: None })
    }

    fn heard_since(&self) -> Time {
        self.scope.now.minus(self.silent_after)
    }

    /// Asks whether anybody checks in at all, and how many do not any more.
    fn totals_sql(&self) -> String {
        let Time(heard_since) = self.heard_since();
        // Rows of the inner query are sandboxes: they are counted, not weighted.
        format!(
            "SELECT sum(received) AS checkIns, max(seen) AS lastSeen, \
             max(sampled) AS sampleInterval, countIf(seen < {heard_since}) AS silent \
             FROM (SELECT {SANDBOX_ID} AS sandboxId, {CHECK_INS} AS received, {LAST_SEEN} AS seen, \
             {SAMPLE_INTERVAL} AS sampled {} GROUP BY sandboxId)",
            self.scope.points(self.window),
        )
    }

    /// Asks for the sandboxes that are not heard of any more, those that are off on purpose last.
    fn silent_sql(&self) -> String {
        let Time(heard_since) = self.heard_since();
        format!(
            "SELECT {SANDBOX_ID} AS sandboxId, {LAST_SEEN} AS lastSeen, {} AS supervisorState, \
             {} AS machineId, {} AS flyRegion, {} AS onPurpose {} GROUP BY sandboxId \
             HAVING lastSeen < {heard_since} ORDER BY onPurpose, lastSeen, sandboxId \
             LIMIT {MAX_SILENT}",
            latest(SUPERVISOR_STATE),
            latest(MACHINE_ID),
            latest(FLY_REGION),
            on_purpose(),
            self.scope.points(self.window),
        )
    }

    /// Queries which of the silent sandboxes did check in after all.
    ///
    /// Over many sandboxes and a long window, Analytics Engine samples, so a sandbox can seem silent. Over few
    /// sandboxes and a few minutes, it does not.
    fn heard_sql(&self, silent: &[SilentRow]) -> Vec<String> {
        let span = Span { after: self.heard_since().minus(1), until: self.scope.now };
        let points = points(span, self.scope.only);
        let ids = silent.iter().map(|row| &*row.sandbox_id);
        let (queries, _) = in_pieces(ids, MAX_PIECES, |condition| {
            format!(
                "SELECT {SANDBOX_ID} AS sandboxId {points} AND {condition} \
                 GROUP BY sandboxId LIMIT {MAX_SILENT}"
            )
        });
        queries
    }

    /// Reads the answers of the first round, and asks the second.
    fn narrow_down(&mut self, answers: &[String]) -> Result<Vec<String>, UnexpectedAnswer> {
        let [totals, silent, restarts, machines] = answers else {
            return Err(UnexpectedAnswer::count());
        };
        let totals: Totals = rows::read_one(totals)?;
        let silent: Vec<SilentRow> = rows::read(silent)?;
        let (crash_loops, loop_queries) =
            crash_loops::Candidates::read(restarts, self.scope, self.window)?;
        let (clones, mut queries) = clones::Candidates::read(machines, self.scope, self.window)?;
        let machine_queries = queries.len();
        let restart_queries = loop_queries.len();
        queries.extend(loop_queries);
        if totals.sample_interval > 1 {
            queries.extend(self.heard_sql(&silent));
        }
        self.candidates = Some(Candidates {
            totals,
            silent,
            crash_loops,
            clones,
            machine_queries,
            restart_queries,
        });
        Ok(queries)
    }

    /// Makes the report of what the first round found and the answers of the second.
    fn conclude(
        &self,
        found: Candidates,
        answers: &[String],
    ) -> Result<Incidents, UnexpectedAnswer> {
        let Candidates {
            totals,
            mut silent,
            crash_loops,
            clones,
            machine_queries,
            restart_queries,
        } = found;
        let (machines, answers) =
            answers.split_at_checked(machine_queries).ok_or_else(UnexpectedAnswer::count)?;
        let (restarts, heard) =
            answers.split_at_checked(restart_queries).ok_or_else(UnexpectedAnswer::count)?;

        let mut missing = Vec::new();
        let (clones, cut) = clones.find(machines, self.heard_since())?;
        missing.extend(cut.then_some("clones"));
        let (crash_loops, cut) = crash_loops.find(restarts)?;
        missing.extend(cut.then_some("crash_loops"));

        let looked_at = silent.len();
        let mut heard_ids = BTreeSet::new();
        for answer in heard {
            heard_ids.extend(rows::read::<IdRow>(answer)?.into_iter().map(|row| row.sandbox_id));
        }
        silent.retain(|row| !heard_ids.contains(&row.sandbox_id));
        // The others are counted, but where points were left out nobody knows of them.
        let others = usize::try_from(totals.silent).unwrap_or(usize::MAX).saturating_sub(looked_at);
        missing.extend((others > 0 && totals.sample_interval > 1).then_some("silent"));

        let totals_found = IncidentTotals {
            clones: clones.len(),
            crash_loops: crash_loops.len(),
            silent: silent.len() + others,
        };
        let mut incidents = clones;
        incidents.extend(crash_loops);
        incidents.extend(silent.into_iter().map(SilentRow::into_incident));
        if self.scope.only.is_none()
            && totals.check_ins > 0
            && totals.last_seen < self.heard_since()
        {
            incidents.push(Incident::NoCheckIns {
                severity: Severity::Critical,
                since: totals.last_seen,
            });
        }
        incidents.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()));
        incidents.truncate(self.limit);
        Ok(Incidents {
            as_of: self.scope.now,
            from: self.scope.now.minus(self.window),
            silent_after_seconds: self.silent_after,
            totals: totals_found,
            incidents,
            complete: missing.is_empty(),
            missing,
        })
    }
}

impl Report for IncidentsReport<'_> {
    fn queries(&self) -> Vec<String> {
        vec![
            self.totals_sql(),
            self.silent_sql(),
            crash_loops::sums_sql(self.scope, self.window),
            clones::sums_sql(self.scope, self.window, self.heard_since()),
        ]
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        let answers = if self.candidates.is_none() {
            let queries = self.narrow_down(answers)?;
            if !queries.is_empty() {
                return Ok(Progress::Query(queries));
            }
            &[]
        } else {
            answers
        };
        let found = self.candidates.take().ok_or_else(UnexpectedAnswer::count)?;
        Progress::done(&self.conclude(found, answers)?)
    }
}

/// What the first round found, and how many queries of the second are about what.
#[derive(Clone, Debug)]
struct Candidates {
    totals: Totals,
    silent: Vec<SilentRow>,
    crash_loops: crash_loops::Candidates,
    clones: clones::Candidates,
    machine_queries: usize,
    restart_queries: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    #[serde(deserialize_with = "rows::whole")]
    check_ins: u64,
    last_seen: Time,
    #[serde(deserialize_with = "rows::whole")]
    sample_interval: u64,
    #[serde(deserialize_with = "rows::whole")]
    silent: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SilentRow {
    sandbox_id: String,
    last_seen: Time,
    supervisor_state: String,
    #[serde(deserialize_with = "rows::known")]
    machine_id: Option<String>,
    #[serde(deserialize_with = "rows::known")]
    fly_region: Option<String>,
    #[serde(deserialize_with = "rows::whole")]
    on_purpose: u64,
}

impl SilentRow {
    fn into_incident(self) -> Incident {
        Incident::Silent {
            severity: if self.on_purpose == 1 { Severity::Info } else { Severity::Critical },
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
struct IdRow {
    sandbox_id: String,
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
    /// Whether all was looked at.
    pub complete: bool,
    /// What was not, as there is too much of it: `clones`, `crash_loops`, and `silent` where the total
    /// counts sandboxes of which points may have been left out.
    pub missing: Vec<&'static str>,
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
