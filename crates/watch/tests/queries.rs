//! Runs the watcher's queries in the dialect's interpreter, and compares its findings with `/api/incidents`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests are tests"
)]
#![expect(clippy::cast_precision_loss, reason = "small numbers")]

use std::collections::{BTreeMap, BTreeSet};

use aesql::{Format, Limits, Point, Query, Table};
use kiloclaw_check_in::data_point::DATASET;
use kiloclaw_fleet::{IncidentsReport, Parameters, Progress, QueryScope, Report, Time};
use kiloclaw_watch::{
    CANARY_DATASET, Channel, Event, MAX_ROUNDS, Next, Observation, Settings, State, Tick, decide,
};
use proptest::prelude::*;
use serde_json::Value;

const START: u64 = 1_767_323_000;

fn check_in(at: u64, sandbox: &str, machine: &str, state: &str, restarts: u32) -> Point {
    let blobs = [sandbox, "1.0.0", "c0ffee", "2.0.0", "", state, "fra", machine, ""];
    Point {
        timestamp_ms: i64::try_from(at * 1_000).unwrap(),
        dataset: DATASET.into(),
        index1: sandbox.into(),
        blobs: blobs.map(Into::into).into(),
        doubles: vec![f64::from(restarts), 7.0, 60.0, 0.5, 10.0, 20.0],
        sample_interval: 1,
    }
}

/// A simulated Analytics Engine, which shows points until a time.
struct Store {
    points: BTreeMap<String, Table>,
    /// Every third check-in, which represents three.
    sampled: BTreeMap<String, Table>,
    /// A query of more check-ins than this is sampled.
    unsampled: u64,
}

impl Store {
    fn new(points: &[Point], until: u64, unsampled: u64) -> Self {
        let until = i64::try_from(until * 1_000).unwrap();
        let shown = || points.iter().filter(|point| point.timestamp_ms <= until);
        let tables = |points: &mut dyn Iterator<Item = Point>| {
            let mut tables = BTreeMap::new();
            for point in points {
                let table = tables
                    .entry(point.dataset.clone())
                    .or_insert_with(|| Table::new(&*point.dataset));
                table.push(&point).unwrap();
            }
            tables
        };
        let third = shown()
            .filter(|point| point.dataset == CANARY_DATASET || point.timestamp_ms / 7_000 % 3 == 0);
        Self {
            points: tables(&mut shown().cloned()),
            sampled: tables(&mut third.map(|point| Point { sample_interval: 3, ..point.clone() })),
            unsampled,
        }
    }

    /// The number of check-ins that a query reads.
    fn reads(&self, sql: &str) -> u64 {
        let (_, condition) = sql.split_once(&format!("FROM {DATASET} ")).unwrap_or_default();
        let (condition, _) = condition.split_once(" GROUP BY").unwrap_or((condition, ""));
        let count = format!("SELECT count() AS n FROM {DATASET} {condition}");
        let query = Query::parse(&count, &Limits::default()).unwrap();
        let answer = query.run(&self.points, 0).unwrap().write(Format::Json).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["data"][0]["n"].as_str().unwrap().parse().unwrap()
    }

    fn query(&self, sql: &str) -> String {
        assert!(sql.chars().count() <= 10_000, "{} characters", sql.len());
        let query =
            Query::parse(sql, &Limits::default()).unwrap_or_else(|error| panic!("{error}\n{sql}"));
        assert_eq!(query.warnings(), [], "{sql}");
        let dataset = if sql.contains(CANARY_DATASET) { CANARY_DATASET } else { DATASET };
        if !self.points.contains_key(dataset) {
            return r#"{"data":[]}"#.to_owned();
        }
        // Few indexes are not sampled, however many points they have.
        let is_named = sql.contains(" IN (");
        let is_sampled = dataset == DATASET && !is_named && self.reads(sql) > self.unsampled;
        let tables = if is_sampled { &self.sampled } else { &self.points };
        query.run(tables, 0).unwrap().write(Format::Json).unwrap()
    }
}

struct Watch {
    settings: Settings,
    points: Vec<Point>,
    state: State,
    /// Open incidents: kind and sandbox.
    open: BTreeSet<(&'static str, String)>,
    /// How often one opened.
    opened: usize,
    /// Maximum number of queries of a tick.
    queries: usize,
    /// Queries of more check-ins than this are sampled.
    unsampled: u64,
    /// Characters of the answers of the last tick.
    read: usize,
}

impl Watch {
    fn new(mut points: Vec<Point>) -> Self {
        points.sort_by_key(|point| point.timestamp_ms);
        let settings = Settings { silent_after: 900, ..Settings::default() };
        Self {
            settings,
            points,
            state: State::default(),
            open: BTreeSet::new(),
            opened: 0,
            queries: 0,
            unsampled: u64::MAX,
            read: 0,
        }
    }

    fn tick(&mut self, now: u64) {
        let store = Store::new(&self.points, now - 10, self.unsampled);
        let (mut tick, mut queries) = Tick::start(&self.settings, &mut self.state, Time(now));
        let (mut count, mut rounds) = (0, 0);
        self.read = 0;
        let observation: Observation = loop {
            count += queries.len();
            rounds += 1;
            assert!(rounds <= MAX_ROUNDS, "{queries:?}");
            let answers: Vec<_> = queries.iter().map(|sql| store.query(sql)).collect();
            self.read += answers.iter().map(String::len).sum::<usize>();
            match tick.read(&answers).unwrap() {
                Next::Query(more) => queries = more,
                Next::Done(observation) => break *observation,
            }
        };
        self.queries = self.queries.max(count);
        let channels = [Channel::Webhook];
        let outcome = decide(&self.settings, &mut self.state, &channels, Time(now), observation);
        for transition in outcome.transitions {
            let key = (transition.kind.name(), transition.subject);
            match transition.event {
                Event::Opened => {
                    self.opened += 1;
                    assert!(self.open.insert(key));
                }
                Event::Closed => assert!(self.open.remove(&key)),
            }
        }
        let canary = Point {
            timestamp_ms: i64::try_from(now * 1_000 + 500).unwrap(),
            dataset: CANARY_DATASET.into(),
            index1: "canary".into(),
            blobs: vec![],
            doubles: vec![outcome.canary as f64],
            sample_interval: 1,
        };
        let index = self.points.partition_point(|point| point.timestamp_ms <= canary.timestamp_ms);
        self.points.insert(index, canary);
    }

    /// What `/api/incidents` lists as of the watcher's horizon.
    fn incidents(&self) -> BTreeSet<(&'static str, String)> {
        let now = self.state.health().horizon.unwrap();
        let store = Store::new(&self.points, now.0, self.unsampled);
        let parameters = Parameters::new([("silent_after".to_owned(), "15m".to_owned())]);
        let scope = QueryScope { now, only: None };
        let mut report = IncidentsReport::new(&parameters, scope).unwrap();
        let mut queries = report.queries();
        let body = loop {
            let answers: Vec<_> = queries.iter().map(|sql| store.query(sql)).collect();
            match report.read(&answers).unwrap() {
                Progress::Query(more) => queries = more,
                Progress::Done(body) => break body.unwrap(),
            }
        };
        let body: Value = serde_json::from_str(&body).unwrap();
        let incidents = body["incidents"].as_array().unwrap().iter();
        incidents
            .filter_map(|incident| {
                let id = incident["sandboxId"].as_str()?.to_owned();
                let kind = match (incident["kind"].as_str()?, incident["severity"].as_str()?) {
                    ("silent", "critical") => "silent",
                    ("silent", _) => "stopped",
                    ("crash_loop", "critical") => "crash_loop",
                    ("clone", "critical") => "clone",
                    _ => return None,
                };
                Some((kind, id))
            })
            .collect()
    }
}

/// Check-ins of a sandbox every five minutes.
fn every_five_minutes(id: &str, from: u64, until: u64) -> Vec<Point> {
    (from..until).step_by(300).map(|at| check_in(at, id, "m1", "running", 0)).collect()
}

#[test]
fn finds_each_kind_of_incident() {
    let end = START + 7_200;
    let mut points = every_five_minutes("well", START, end);
    points.extend(every_five_minutes("silent", START + 7, START + 3_000));
    points.extend(every_five_minutes("it's \\ odd", START + 9, START + 3_000));
    points.extend(every_five_minutes("stopped", START + 11, START + 3_000));
    points.push(check_in(START + 3_100, "stopped", "m1", "shutting_down", 0));
    points.extend(every_five_minutes("back", START + 13, START + 2_000));
    points.extend(every_five_minutes("back", START + 5_000, end));
    points.extend((START..end).step_by(300).map(|at| check_in(at, "loops", "m1", "running", 1)));
    for machine in ["m1", "m2"] {
        points.extend(
            (START..end).step_by(300).map(|at| check_in(at, "twice", machine, "running", 0)),
        );
    }
    let mut watch = Watch::new(points);
    for now in (START + 600..START + 4_500).step_by(60) {
        watch.tick(now);
    }
    let expected = [
        ("silent", "silent"),
        ("silent", "it's \\ odd"),
        ("silent", "back"),
        ("stopped", "stopped"),
        ("crash_loop", "loops"),
        ("clone", "twice"),
    ];
    assert_eq!(watch.open, expected.map(|(kind, id)| (kind, id.to_owned())).into());
    assert_eq!(watch.open, watch.incidents());
    for now in (START + 4_500..end).step_by(60) {
        watch.tick(now);
    }
    assert!(!watch.open.contains(&("silent", "back".to_owned())));
    assert_eq!(watch.open, watch.incidents());
    assert!(watch.queries <= 12, "{}", watch.queries);
}

#[test]
fn a_large_silence_is_read_in_pages() {
    let mut points = Vec::new();
    for number in 0..9_000 {
        let id = format!("sandbox-{number:05}");
        points.push(check_in(START + number % 300, &id, "m1", "running", 0));
    }
    let mut watch = Watch::new(points);
    for now in [START + 300, START + 360, START + 420, START + 2_000, START + 2_060] {
        watch.tick(now);
    }
    assert_eq!(watch.open.iter().filter(|(kind, _)| *kind == "silent").count(), 9_000);
    assert!(watch.open.contains(&("quiet", "*".to_owned())));
}

#[test]
fn a_very_large_silence_is_found_in_several_ticks() {
    let points = (0..25_000).map(|number| {
        let id = format!("sandbox-{number:05}");
        check_in(START + number % 300, &id, "m1", "running", 0)
    });
    let mut watch = Watch::new(points.collect());
    let silent = |watch: &Watch| watch.open.iter().filter(|(kind, _)| *kind == "silent").count();
    let (mut found, mut read) = (Vec::new(), Vec::new());
    for now in [300, 360, 2_000, 2_060, 2_120, 2_180] {
        watch.tick(START + now);
        found.push(silent(&watch));
        read.push(watch.read);
    }
    assert_eq!(found.last(), Some(&25_000), "{found:?}");
    let most = found.iter().zip([0].iter().chain(&found)).map(|(now, before)| now - before).max();
    assert!(most <= Some(20_000), "{found:?}");
    assert!(read.iter().all(|read| *read < 6_000_000), "{read:?}");
}

#[test]
fn sampling_neither_hides_a_silence_nor_invents_one() {
    let end = START + 14_400;
    let is_silent = |number: u64| number % 10 == 3;
    let points = (0..400).flat_map(|number| {
        let id = format!("sandbox-{:0>1$}", number, 3 + (number % 2) as usize);
        let until = if is_silent(number) { START + 3_600 + number * 5 } else { end };
        every_five_minutes(&id, START + number * 13 % 300, until)
    });
    let mut watch = Watch::new(points.collect());
    for now in (START + 300..end).step_by(60) {
        // The fleet's check-ins of a quarter of an hour are 1,200 and more. Sampling begins while silences are found.
        if now > START + 4_920 {
            watch.unsampled = 150;
        }
        watch.tick(now);
    }
    let silent = watch.open.iter().filter(|(kind, _)| *kind == "silent").count();
    assert_eq!((silent, watch.open.len(), watch.opened), (40, 40, 40), "{:?}", watch.open);
    assert!(watch.queries > 20, "{}", watch.queries);
}

#[test]
fn a_silence_of_more_sandboxes_than_a_tick_reads_is_found() {
    let points = (0..120_000).map(|number| {
        let id = format!("sandbox-{number:06}");
        check_in(START + number % 300, &id, "m1", "running", 0)
    });
    let mut watch = Watch::new(points.collect());
    for now in [300, 360].into_iter().chain((2_000..2_600).step_by(60)) {
        watch.tick(START + now);
        assert!(watch.read < 10_000_000, "{}", watch.read);
    }
    let silent = watch.open.iter().filter(|(kind, _)| *kind == "silent").count();
    // Beyond 100,000, the watcher forgets the sandboxes that have been off for longest.
    assert_eq!(silent, 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_the_incidents(
        sandboxes in prop::collection::vec(
            (0_u64..300, prop::collection::vec((600_u64..5_000, 0_u64..4_000, 0_u32..2, 0..4), 1..3)), 1..6),
    ) {
        let end = START + 9_000;
        let mut points = Vec::new();
        for (number, (phase, runs)) in sandboxes.into_iter().enumerate() {
            let id = format!("sandbox-{number}");
            let mut at = START + phase;
            for (up, down, restarts, ending) in runs {
                for time in (at..(at + up).min(end)).step_by(300) {
                    points.push(check_in(time, &id, "m1", "running", restarts));
                    if ending == 3 {
                        points.push(check_in(time + 20, &id, "m2", "running", 0));
                    }
                }
                at += up;
                if ending == 1 && at < end {
                    points.push(check_in(at, &id, "m1", "shutting_down", 0));
                }
                at += down + 1;
            }
        }
        let mut watch = Watch::new(points);
        for now in (START + 300..end).step_by(60) {
            watch.tick(now);
        }
        let mut incidents = watch.incidents();
        let mut open = watch.open.clone();
        open.retain(|(kind, _)| !["flapping", "quiet"].contains(kind));
        // The survey is older than the horizon by some ticks.
        let of_survey = |(kind, _): &(&str, String)| ["crash_loop", "clone"].contains(kind);
        incidents.retain(|incident| !of_survey(incident));
        open.retain(|incident| !of_survey(incident));
        prop_assert_eq!(open, incidents);
    }
}
