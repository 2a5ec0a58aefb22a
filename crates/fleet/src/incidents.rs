//! `GET /api/incidents`: what an operator should look at, the worst first.

use serde::Serialize;

use crate::incident::{Incident, Severity};
use crate::parameters::{InvalidParameter, Parameters};
use crate::patterns::{self, FoundPatterns, PatternCandidates, Patterns};
use crate::rows::{self, UnexpectedAnswer, list, row};
use crate::sql::{
    CHECK_INS, FLY_REGION, LAST_SEEN, MACHINE_ID, SAMPLE_INTERVAL, SANDBOX_ID, SUPERVISOR_STATE,
    in_pieces, latest, on_purpose, points,
};
use crate::time::{Span, Time};
use crate::{Progress, QueryScope, Report};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Maximum number of silent sandboxes that are read, and that a response can list; others are only counted.
/// A row has four texts of at most 96 x 6 B and two numbers: 1,000 x 2.5 kB = 2.5 MB.
const MAX_SILENT: usize = MAX_LIMIT;

/// Maximum number of queries that check silent sandboxes again. An id of 96 bytes that needs hexadecimal digits takes
/// 196 characters of a query, so 21 queries hold 1,000 ids.
const MAX_PIECES: usize = 24;

/// Maximum number of queries of a report. A request on Cloudflare's free plan may make 50 subrequests; the cache takes
/// two, and Access' keys take one.
const MAX_QUERIES: usize = 2 + patterns::MAX_QUERIES + MAX_PIECES;
const _: () = assert!(MAX_QUERIES <= 47);

/// The report behind `GET /api/incidents`.
#[derive(Clone, Debug)]
pub struct IncidentsReport<'a> {
    scope: QueryScope<'a>,
    window: u64,
    silent_after: u64,
    limit: usize,
    /// Results of the first round.
    candidates: Option<FirstRound>,
}

impl<'a> IncidentsReport<'a> {
    /// Builds the report from a request's parameters.
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

    fn patterns(&self) -> Patterns<'_> {
        Patterns { scope: self.scope, window: self.window, heard_since: self.heard_since() }
    }

    /// Queries the last check-in of all, and the number of silent sandboxes.
    fn totals_sql(&self) -> String {
        let Time(heard_since) = self.heard_since();
        // Rows of the inner query are sandboxes, so they are counted without weight.
        format!(
            "SELECT sum(received) AS checkIns, max(seen) AS lastSeen, \
             max(sampled) AS sampleInterval, countIf(seen < {heard_since}) AS silent \
             FROM (SELECT {SANDBOX_ID} AS sandboxId, {CHECK_INS} AS received, {LAST_SEEN} AS seen, \
             {SAMPLE_INTERVAL} AS sampled {} GROUP BY sandboxId)",
            self.scope.points(self.window),
        )
    }

    /// Queries the silent sandboxes; those that are off on purpose come last.
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
    /// Analytics Engine samples a read over many sandboxes and a long window, so a sandbox can seem silent. It does not
    /// sample a read over few sandboxes and a few minutes.
    fn heard_sql(&self, silent: &[SilentRow]) -> Vec<String> {
        let span = Span { after: self.heard_since().minus(1), until: self.scope.now };
        let points = points(span, self.scope.only);
        let ids = list(silent.iter().map(|row| &*row.sandbox_id));
        let (queries, _) = in_pieces(&ids, MAX_PIECES, &|condition| {
            format!(
                "SELECT {SANDBOX_ID} AS sandboxId {points} AND {condition} \
                 GROUP BY sandboxId LIMIT {MAX_SILENT}"
            )
        });
        queries
    }

    /// Parses the answers of the first round, and returns the queries of the second.
    fn narrow_down(&mut self, answers: &[String]) -> Result<Vec<String>, UnexpectedAnswer> {
        let [totals, silent, patterns @ ..] = answers else {
            return Err(UnexpectedAnswer::count());
        };
        let totals: TotalsRow = rows::read_one(totals)?;
        let silent: Vec<SilentRow> = rows::read(silent)?;
        let (patterns, mut queries) = self.patterns().read(patterns)?;
        let pattern_queries = queries.len();
        if totals.sample_interval > 1 {
            queries.append(&mut self.heard_sql(&silent));
        }
        self.candidates = Some(FirstRound { totals, silent, patterns, pattern_queries });
        Ok(queries)
    }

    /// Builds the response from the first round and the answers of the second.
    fn conclude(
        &self,
        found: FirstRound,
        answers: &[String],
    ) -> Result<Incidents, UnexpectedAnswer> {
        let FirstRound { totals, mut silent, patterns, pattern_queries } = found;
        let (details, heard) =
            answers.split_at_checked(pattern_queries).ok_or_else(UnexpectedAnswer::count)?;
        let FoundPatterns { clones, clones_cut, mut crash_loops, crash_loops_cut } =
            patterns.find(details)?;
        let mut missing = Vec::new();

        let looked_at = silent.len();
        let heard: Vec<IdRow> = rows::read_all(heard)?;
        let heard = rows::sorted(heard, |row| ([0; 3], row.sandbox_id.clone(), [0; 2]));
        silent.retain(|row| {
            heard.binary_search_by(|other| other.sandbox_id.cmp(&row.sandbox_id)).is_err()
        });
        // The other silent sandboxes are counted, but with sampling, some of them may not be silent.
        let others = usize::try_from(totals.silent).unwrap_or(usize::MAX).saturating_sub(looked_at);
        let silent_cut = others > 0 && totals.sample_interval > 1;
        for (is_cut, kind) in
            [(clones_cut, "clones"), (crash_loops_cut, "crash_loops"), (silent_cut, "silent")]
        {
            if is_cut {
                missing.push(kind);
            }
        }

        let totals_found = IncidentTotals {
            clones: clones.len(),
            crash_loops: crash_loops.len(),
            silent: silent.len() + others,
        };
        let mut incidents = clones;
        incidents.append(&mut crash_loops);
        for row in silent {
            incidents.push(row.into_incident());
        }
        if self.scope.only.is_none()
            && totals.check_ins > 0
            && totals.last_seen < self.heard_since()
        {
            incidents.push(Incident::NoCheckIns {
                severity: Severity::Critical,
                since: totals.last_seen,
            });
        }
        let mut incidents = rows::sorted(incidents, Incident::rank);
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
        let mut queries = vec![self.totals_sql(), self.silent_sql()];
        queries.append(&mut self.patterns().queries());
        queries
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
        Ok(Progress::done(&self.conclude(found, answers)?))
    }
}

/// Results of the first round, and the number of queries about crash loops and clones in the second.
#[derive(Clone, Debug)]
struct FirstRound {
    totals: TotalsRow,
    silent: Vec<SilentRow>,
    patterns: PatternCandidates,
    pattern_queries: usize,
}

row! {
    #[derive(Clone, Debug)]
    struct TotalsRow {
        check_ins: u64 = "checkIns",
        last_seen: Time = "lastSeen",
        sample_interval: u64 = "sampleInterval",
        silent: u64 = "silent",
    }
}

row! {
    #[derive(Clone, Debug)]
    struct SilentRow {
        sandbox_id: String = "sandboxId",
        last_seen: Time = "lastSeen",
        supervisor_state: String = "supervisorState",
        machine_id: Option<String> = "machineId",
        fly_region: Option<String> = "flyRegion",
        on_purpose: u64 = "onPurpose",
    }
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

row! {
    struct IdRow {
        sandbox_id: String = "sandboxId",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incidents {
    /// Time of the request.
    pub as_of: Time,
    /// Only check-ins after this time count.
    pub from: Time,
    /// Seconds without a check-in until a sandbox is silent.
    pub silent_after_seconds: u64,
    /// Numbers of incidents, including those beyond the limit.
    pub totals: IncidentTotals,
    /// The worst first.
    pub incidents: Vec<Incident>,
    /// Whether `missing` is empty.
    pub complete: bool,
    /// Kinds of incidents that may be incomplete: `clones`, `crash_loops`, and `silent` if the total includes sandboxes
    /// that only seem silent because of sampling.
    pub missing: Vec<&'static str>,
}

/// Incidents by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentTotals {
    /// Sandboxes on several machines at the same time.
    pub clones: usize,
    /// Sandboxes that restarted too often within an hour.
    pub crash_loops: usize,
    /// Silent sandboxes.
    pub silent: usize,
}
