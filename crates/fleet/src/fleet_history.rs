//! `GET /api/fleet/history`: the fleet over time, in columns.

use std::fmt::Write;

use kiloclaw_check_in::data_point::Column;
use serde::Serialize;

use crate::parameters::{InvalidParameter, Parameters};
use crate::rows::{self, UnexpectedAnswer, row};
use crate::sql::{
    self, CONTROLLER_VERSION, OPENCLAW_VERSION, RESTARTS, SAMPLE_INTERVAL, SANDBOX_ID,
    SUPERVISOR_STATE, compare, latest, start_of, sum,
};
use crate::time::{Span, Time};
use crate::{Progress, QueryScope, Report};

/// Default number of steps, approximately.
const DEFAULT_STEPS: u64 = 96;

/// The default length of a step is a multiple of this: a healthy machine's check-in interval, in seconds.
const CHECK_IN: u64 = 5 * 60;

/// Maximum number of steps: a day in steps of five minutes.
const MAX_STEPS: u64 = 288;

/// Number of a column's values that have their own series. Machines choose these texts, and the query for the series
/// contains all of them: 8 x 96 x 4 B x 2 hexadecimal digits = 6,144 characters at most.
const MAX_NAMES: usize = 8;

/// Maximum number of rows: one more step, since the first and the last may be partial, and one more series for all
/// others. A row has four numbers: 4 x 2,610 x 90 B = 1 MB.
const MAX_ROWS: u64 = (MAX_STEPS + 2) * (MAX_NAMES as u64 + 1);

/// The columns whose values have series.
const COLUMNS: [Column; 3] = [SUPERVISOR_STATE, CONTROLLER_VERSION, OPENCLAW_VERSION];

/// The report behind `GET /api/fleet/history`.
#[derive(Clone, Debug)]
pub struct FleetHistoryReport<'a> {
    only: Option<&'a str>,
    /// The response. The first round names its series; the second round fills them.
    history: FleetHistory,
}

impl<'a> FleetHistoryReport<'a> {
    /// Builds the report from a request's parameters.
    pub fn new(parameters: &Parameters, scope: QueryScope<'a>) -> Result<Self, InvalidParameter> {
        parameters.only(&["window", "step"])?;
        let window = parameters.window()?;
        let default = (window / DEFAULT_STEPS).next_multiple_of(CHECK_IN).max(CHECK_IN);
        let step = parameters.step(window, default, MAX_STEPS)?;
        let mut history = FleetHistory {
            as_of: scope.now,
            // The first step is whole: a partial one would look like a rise.
            from: scope.now.minus(window).start_of(step),
            step_seconds: step,
            sample_interval: 1,
            ..FleetHistory::default()
        };
        let mut start = history.from;
        while start <= scope.now {
            history.times.push(start);
            history.sandboxes.push(0);
            start = start.plus(step);
        }
        Ok(Self { only: scope.only, history })
    }

    fn points(&self) -> String {
        // A span excludes its start.
        let span = Span { after: self.history.from.minus(1), until: self.history.as_of };
        sql::points(span, self.only)
    }

    /// The start of a point's step.
    fn start(&self) -> String {
        format!("intDiv(toUnixTimestamp(timestamp), {0}) * {0}", self.history.step_seconds)
    }

    /// Queries the most common values of a column.
    fn names_sql(&self, column: Column) -> String {
        format!(
            "SELECT {} AS name, count(DISTINCT {SANDBOX_ID}) AS sandboxes {} GROUP BY name \
             ORDER BY sandboxes DESC, name LIMIT {MAX_NAMES}",
            start_of(column),
            self.points(),
        )
    }

    /// Queries the sandboxes of each series. In each step, a sandbox counts once, by its last value.
    fn sandboxes_sql(&self, column: Column, all: &[Series]) -> String {
        format!(
            "SELECT start, {} AS series, count() AS amount, max(sampled) AS sampleInterval \
             FROM (SELECT {} AS start, {SANDBOX_ID} AS sandboxId, {} AS name, \
             {SAMPLE_INTERVAL} AS sampled {} GROUP BY start, sandboxId) \
             GROUP BY start, series ORDER BY start, series LIMIT {MAX_ROWS}",
            number("name", all),
            self.start(),
            latest(column),
            self.points(),
        )
    }

    /// Queries the restarts of each series, by the version in the same check-in. The last version of the step would be
    /// wrong: it may be a good version, after a bad one was rolled back.
    fn restarts_sql(&self, all: &[Series]) -> String {
        format!(
            "SELECT {} AS start, {} AS series, {} AS amount, {SAMPLE_INTERVAL} AS sampleInterval \
             {} GROUP BY start, series ORDER BY start, series LIMIT {MAX_ROWS}",
            self.start(),
            number(&start_of(CONTROLLER_VERSION), all),
            sum(RESTARTS),
            self.points(),
        )
    }

    /// Names the series, and returns the queries for their values; none before the first check-in.
    fn name(&mut self, answers: &[String]) -> Result<Vec<String>, UnexpectedAnswer> {
        let mut queries = Vec::new();
        let mut named = [const { Vec::new() }; 3];
        for ((column, answer), all) in COLUMNS.into_iter().zip(answers).zip(&mut named) {
            *all = rows::read::<Series>(answer)?;
            if all.is_empty() {
                return Ok(Vec::new());
            }
            for series in all.iter_mut() {
                series.name = Some(std::mem::take(&mut series.text));
            }
            // The last series is all others.
            all.push(Series::default());
            for series in all.iter_mut() {
                series.sandboxes.clone_from(&self.history.sandboxes);
                if column == CONTROLLER_VERSION {
                    series.restarts.clone_from(&self.history.sandboxes);
                }
            }
            queries.push(self.sandboxes_sql(column, all));
            if column == CONTROLLER_VERSION {
                queries.push(self.restarts_sql(all));
            }
        }
        let history = &mut self.history;
        [history.states, history.controller_versions, history.openclaw_versions] = named;
        Ok(queries)
    }
}

/// SQL for the number of a text's series. [`compare`] quotes any text, so no text can end the expression.
fn number(text: &str, all: &[Series]) -> String {
    let (mut sql, mut others) = (String::new(), 0);
    for name in all.iter().filter_map(|series| series.name.as_deref()) {
        let _ = write!(sql, "if({}, {others}, ", compare(text, "=", name));
        others += 1;
    }
    format!("{sql}{others}{}", ")".repeat(others))
}

impl Report for FleetHistoryReport<'_> {
    fn queries(&self) -> Vec<String> {
        COLUMNS.map(|column| self.names_sql(column)).into()
    }

    fn read(&mut self, answers: &[String]) -> Result<Progress, UnexpectedAnswer> {
        if let [states, controllers, restarts, openclaws] = answers {
            self.history.fill(states, controllers, restarts, openclaws)?;
        } else if answers.len() == COLUMNS.len() {
            let queries = self.name(answers)?;
            if !queries.is_empty() {
                return Ok(Progress::Query(queries));
            }
        } else {
            return Err(UnexpectedAnswer::count());
        }
        Ok(Progress::done(&self.history))
    }
}

row! {
    /// The value of a series in a step.
    struct Cell {
        start: Time = "start",
        series: u64 = "series",
        amount: u64 = "amount",
        sampled: u64 = "sampleInterval",
    }
}

/// The fleet over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetHistory {
    /// Time of the request; the last step ends here.
    pub as_of: Time,
    /// The start of the first step.
    pub from: Time,
    /// Length of a step in seconds.
    pub step_seconds: u64,
    /// Highest sampling interval: 1 if Analytics Engine read every point. If it is higher, sandboxes may be missing.
    pub sample_interval: u64,
    /// The starts of all steps, including those without a check-in. All other columns are as long.
    pub times: Vec<Time>,
    /// Sandboxes that checked in, step by step.
    pub sandboxes: Vec<u64>,
    /// By their last state in the step; the most common values in the window come first.
    pub states: Vec<Series>,
    /// By their last controller version in the step.
    pub controller_versions: Vec<Series>,
    /// By their last OpenClaw version in the step.
    pub openclaw_versions: Vec<Series>,
}

impl FleetHistory {
    /// Fills the series from the answers of the second round.
    fn fill(
        &mut self,
        by_state: &str,
        by_controller: &str,
        restarts: &str,
        by_openclaw: &str,
    ) -> Result<(), UnexpectedAnswer> {
        type Amounts = fn(&mut Series) -> &mut Vec<u64>;
        let sandboxes: Amounts = |series| &mut series.sandboxes;
        let Self { states, controller_versions, openclaw_versions, .. } = self;
        let mut fill = |all: &mut [Series], amounts: Amounts, answer: &str| {
            for Cell { start, series, amount, sampled } in rows::read(answer)? {
                self.sample_interval = self.sample_interval.max(sampled);
                let step = start.since(self.from) / self.step_seconds;
                let amounts = all.get_mut(index(series)).map(amounts);
                if let Some(found) = amounts.and_then(|amounts| amounts.get_mut(index(step))) {
                    *found = amount;
                }
            }
            Ok::<_, UnexpectedAnswer>(())
        };
        fill(states, sandboxes, by_state)?;
        fill(controller_versions, sandboxes, by_controller)?;
        fill(controller_versions, |series| &mut series.restarts, restarts)?;
        fill(openclaw_versions, sandboxes, by_openclaw)?;
        // In each step, each sandbox has one state.
        for series in &*states {
            for (total, sandboxes) in self.sandboxes.iter_mut().zip(&series.sandboxes) {
                *total += sandboxes;
            }
        }
        for all in [states, controller_versions, openclaw_versions] {
            all.pop_if(|others| {
                others.sandboxes.iter().chain(&others.restarts).all(|amount| *amount == 0)
            });
        }
        Ok(())
    }
}

/// A number from an answer as an index; a number that is too large is out of bounds.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

row! {
    /// One value over time.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
    pub struct Series {
        /// The value; empty if unknown, null for all others together.
        pub name: Option<String>,
        /// The value as read, until it becomes the name.
        #[serde(skip)]
        text: String = "name",
        /// Sandboxes whose last check-in of the step has this value.
        pub sandboxes: Vec<u64>,
        /// Restarts in all check-ins of the step with this value; only for controller versions.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub restarts: Vec<u64>,
    }
}
