//! An in-memory fleet, queried through the dialect's interpreter, which refuses the same SQL as Analytics Engine.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::collections::BTreeMap;

use aesql::{Format, Limits, Point, Query, Table};
use kiloclaw_check_in::data_point::DATASET;
use kiloclaw_fleet::{Parameters, Progress, QueryScope, Report, Time};
use serde_json::Value;

pub(crate) const NOW: u64 = 1_767_323_045;
pub(crate) const MINUTE: u64 = 60;
pub(crate) const HOUR: u64 = 3_600;

/// A check-in as stored in its data point.
#[derive(Clone, Debug)]
pub(crate) struct CheckIn {
    /// Seconds before [`NOW`].
    pub(crate) ago: u64,
    pub(crate) sandbox: &'static str,
    pub(crate) machine: &'static str,
    pub(crate) controller: &'static str,
    pub(crate) openclaw: &'static str,
    pub(crate) state: &'static str,
    pub(crate) region: &'static str,
    pub(crate) exit: &'static str,
    pub(crate) restarts: u32,
    pub(crate) load: f64,
    pub(crate) bytes: u32,
    /// The number of check-ins that the point represents: its sample interval.
    pub(crate) weight: u32,
}

pub(crate) const CHECK_IN: CheckIn = CheckIn {
    ago: 0,
    sandbox: "a",
    machine: "m1",
    controller: "1.0.0",
    openclaw: "2.0.0",
    state: "running",
    region: "fra",
    exit: "",
    restarts: 0,
    load: 0.5,
    bytes: 10,
    weight: 1,
};

impl CheckIn {
    pub(crate) fn into_point(self) -> Point {
        let texts = [
            self.sandbox,
            self.controller,
            "c0ffee",
            self.openclaw,
            "",
            self.state,
            self.region,
            self.machine,
            self.exit,
        ];
        let (restarts, bytes) = (f64::from(self.restarts), f64::from(self.bytes));
        Point {
            timestamp_ms: i64::try_from((NOW - self.ago) * 1_000).unwrap(),
            dataset: DATASET.into(),
            index1: self.sandbox.into(),
            blobs: texts.map(Into::into).into(),
            doubles: vec![restarts, 7.0, 60.0, self.load, bytes, 2.0 * bytes],
            sample_interval: self.weight,
        }
    }
}

pub(crate) struct FleetInMemory(BTreeMap<String, Table>);

impl FleetInMemory {
    pub(crate) fn new(check_ins: &[CheckIn]) -> Self {
        let mut sorted = check_ins.to_vec();
        sorted.sort_by_key(|check_in| std::cmp::Reverse(check_in.ago));
        Self::from_points(sorted.into_iter().map(CheckIn::into_point))
    }

    /// `points` are in order of time.
    pub(crate) fn from_points(points: impl IntoIterator<Item = Point>) -> Self {
        let mut table = Table::new(DATASET);
        for point in points {
            table.push(&point).unwrap();
        }
        Self(BTreeMap::from([(DATASET.into(), table)]))
    }

    pub(crate) fn query(&self, sql: &str) -> String {
        let query =
            Query::parse(sql, &Limits::default()).unwrap_or_else(|error| panic!("{error}\n{sql}"));
        assert_eq!(query.warnings(), [], "{sql}");
        assert!(sql.contains("WHERE timestamp > toDateTime("), "not bounded: {sql}");
        // No report may depend on the engine's clock.
        query.run(&self.0, 0).unwrap().write(Format::Json).unwrap()
    }
}

pub(crate) fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    Parameters::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

pub(crate) const ALL: QueryScope<'_> = QueryScope { now: Time(NOW), only: None };

/// Runs a report as the Worker does; `None` if the subject was not found.
pub(crate) fn run(fleet: &FleetInMemory, mut report: impl Report) -> Option<Value> {
    let mut queries = report.queries();
    loop {
        let results: Vec<_> = queries.iter().map(|sql| fleet.query(sql)).collect();
        match report.read(&results).unwrap() {
            Progress::Query(more) => queries = more,
            Progress::Done(json) => return json.map(|json| serde_json::from_str(&json).unwrap()),
        }
    }
}
