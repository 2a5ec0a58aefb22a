//! Whatever a sandbox writes, no report becomes slow, large or wrong for the others. The fleets consist of extreme
//! values; some points exceed the contract's bounds, as if stored before the contract had bounds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

mod in_memory;

use std::collections::BTreeSet;

use aesql::Point;
use in_memory::{ALL, CHECK_IN, CheckIn, FleetInMemory, HOUR, MINUTE, NOW, parameters};
use kiloclaw_fleet::{
    FleetHistoryReport, FleetReport, HistoryReport, IncidentsReport, Progress, QueryScope, Report,
    SandboxReport, SandboxesReport, Time,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The longest query that Analytics Engine accepts, in characters.
const MAX_SQL: usize = 10_000;

/// The largest round of results that the Worker reads, in bytes.
const MAX_RESULTS: usize = 8 << 20;

/// Maximum memory of a round of results and its report, in bytes: an isolate has 128 MiB, and receives check-ins at the
/// same time.
const MAX_MEMORY: u64 = 32 << 20;

/// A unique text of `bytes` bytes, most of which take six bytes each in JSON.
fn longest(tag: usize, bytes: usize) -> String {
    let tag = tag.to_string();
    format!("{tag}{}", "\u{1}".repeat(bytes - tag.len()))
}

/// A point whose values are all as large as possible.
fn extreme(sandbox: usize, machine: usize, ago: u64) -> Point {
    let mut point = CheckIn { ago, ..CHECK_IN }.into_point();
    point.index1 = longest(sandbox, 96);
    for (i, blob) in point.blobs.iter_mut().enumerate() {
        *blob = longest(sandbox * 10 + i, 1_024);
    }
    if let Some(id) = point.blobs.get_mut(7) {
        *id = longest(machine, 1_024);
    }
    point.doubles = vec![1e308; 6];
    point
}

/// Runs a report; returns its JSON. Asserts the limits on query length, result size and memory.
fn run_within_limits(fleet: &FleetInMemory, mut report: impl Report) -> Option<Value> {
    let mut queries = report.queries();
    loop {
        let mut results = Vec::new();
        for sql in &queries {
            assert!(sql.chars().count() <= MAX_SQL, "{} characters: {sql}", sql.chars().count());
            results.push(fleet.query(sql));
        }
        let result_bytes = results.iter().map(String::len).sum::<usize>();
        assert!(result_bytes <= MAX_RESULTS, "{result_bytes} bytes for {queries:?}");
        let mut progress = None;
        let used = allocation_counter::measure(|| progress = Some(report.read(&results).unwrap()));
        let memory = used.bytes_max + u64::try_from(result_bytes).unwrap();
        assert!(memory <= MAX_MEMORY, "{memory} bytes for {queries:?}");
        match progress.unwrap() {
            Progress::Query(more) => queries = more,
            Progress::Done(json) => return json.map(|json| serde_json::from_str(&json).unwrap()),
        }
    }
}

fn incidents(fleet: &FleetInMemory) -> Value {
    let report = IncidentsReport::new(&parameters(&[("limit", "1000")]), ALL).unwrap();
    run_within_limits(fleet, report).unwrap()
}

#[test]
fn reports_over_extreme_values_stay_within_the_limits() {
    // Every sandbox is silent, cloned and in a crash loop, and no two share a value.
    let points = [50, 40, 30, 20].into_iter().flat_map(|ago| {
        (0..2_500).map(move |sandbox| extreme(sandbox, (ago / 10 % 2) as usize, ago * MINUTE))
    });
    let data = FleetInMemory::from_points(points);
    let none = parameters(&[]);

    let fleet = run_within_limits(&data, FleetReport::new(&none, ALL).unwrap()).unwrap();
    assert_eq!((&fleet["sandboxes"], &fleet["silent"]), (&json!(2_500), &json!(2_500)));
    assert_eq!((&fleet["complete"], &fleet["missing"]), (&json!(false), &json!(["facets"])));
    assert_eq!(fleet["restarts"], json!(10_000_u64 * 1_000_000_000));

    let incidents = incidents(&data);
    assert_eq!(incidents["totals"]["silent"], 2_500);
    assert_eq!(incidents["incidents"].as_array().unwrap().len(), 1_000);
    assert_eq!(incidents["missing"], json!(["clones", "crash_loops"]));

    for sort in ["sandbox_id", "-restarts", "load"] {
        let pairs = parameters(&[("limit", "1000"), ("sort", sort)]);
        let page = run_within_limits(&data, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
        assert_eq!(page["sandboxes"].as_array().unwrap().len(), 1_000);
    }
    let id = longest(7, 96);
    let report = SandboxReport::new(&id, &none, Time(NOW)).unwrap();
    let response = run_within_limits(&data, report).unwrap();
    assert_eq!(response["sandbox"]["supervisorState"].as_str().unwrap().chars().count(), 96);
    assert_eq!(response["load"]["max"], 4_194_304.0);
    let report = HistoryReport::new(&id, &none, Time(NOW)).unwrap();
    assert!(run_within_limits(&data, report).is_some());
    let report = FleetHistoryReport::new(&none, ALL).unwrap();
    let history = run_within_limits(&data, report).unwrap();
    let most = history["sandboxes"].as_array().unwrap().iter().filter_map(Value::as_u64).max();
    assert_eq!(most, Some(2_500));
}

#[test]
fn the_longest_history_stays_within_the_limits() {
    let points = (0..7 * 24 * 12).rev().map(|i| extreme(1, i, i as u64 * 5 * MINUTE));
    let data = FleetInMemory::from_points(points);
    let pairs = parameters(&[("window", "7d"), ("step", "5m")]);
    let history = HistoryReport::new(&longest(1, 96), &pairs, Time(NOW)).unwrap();
    let response = run_within_limits(&data, history).unwrap();
    assert_eq!(response["steps"].as_array().unwrap().len(), 2_017);
    let pairs = parameters(&[("window", "7d")]);
    let sandbox = SandboxReport::new(&longest(1, 96), &pairs, Time(NOW)).unwrap();
    let response = run_within_limits(&data, sandbox).unwrap();
    assert_eq!(response["machines"].as_array().unwrap().len(), 100, "the latest 100");
}

#[test]
fn the_longest_history_of_the_fleet_stays_within_the_limits() {
    // In each step, more texts than have a series of their own, each with the longest literal and the most restarts.
    let id = format!("{}'", longest(0, 95));
    for only in [None, Some(&*id)] {
        let pairs = (0..290).rev().flat_map(|step| (0..10).map(move |i| (step, i)));
        let points = pairs.map(|(step, i)| {
            let mut point = extreme(i, i, step * 5 * MINUTE);
            for blob in &mut point.blobs {
                *blob = format!("{i}'{}", "😀".repeat(100));
            }
            if only.is_some() {
                point.index1.clone_from(&id);
            }
            point
        });
        let data = FleetInMemory::from_points(points);
        let scope = QueryScope { only, ..ALL };
        let report = FleetHistoryReport::new(&parameters(&[("step", "5m")]), scope).unwrap();
        let history = run_within_limits(&data, report).unwrap();
        let steps = history["times"].as_array().unwrap().len();
        assert_eq!(steps, 289);
        let sandboxes = if only.is_some() { 1 } else { 10 };
        assert_eq!(history["sandboxes"], json!(vec![sandboxes; steps]));
        for columns in ["states", "controllerVersions", "openclawVersions"] {
            let columns = history[columns].as_array().unwrap();
            // The last text of one sandbox is always the same, so there are no others.
            assert!(columns.len() == 9 || only.is_some(), "{}", columns.len());
            for (i, series) in columns.iter().enumerate() {
                let shown = series["name"].as_str().map(|name| name.chars().count());
                assert_eq!(shown, (i < 8).then_some(96), "{series}");
                if only.is_none() {
                    assert_eq!(series["sandboxes"], json!(vec![if i < 8 { 1 } else { 2 }; steps]));
                }
            }
        }
        let restarts = &history["controllerVersions"][8]["restarts"];
        assert_eq!(restarts, &json!(vec![2_000_000_000_u64; steps]));
    }
}

#[test]
fn the_fleets_history_distinguishes_hostile_texts() {
    let texts =
        ["running", "'running'", "\\", "' OR 1 = 1 --", "1", "%", "\u{0}", "if(1 = 1, 0, 0)"];
    let points = texts.into_iter().zip(0..).flat_map(|(text, i)| {
        (0..=i).map(move |sandbox| {
            let mut point = CheckIn { ago: i, ..CHECK_IN }.into_point();
            point.index1 = format!("{text}{sandbox}");
            point.blobs = vec![text.to_owned(); 9];
            point.doubles = vec![1.0; 6];
            point
        })
    });
    let mut points: Vec<_> = points.collect();
    points.reverse();
    let data = FleetInMemory::from_points(points);
    let report = FleetHistoryReport::new(&parameters(&[]), ALL).unwrap();
    let history = run_within_limits(&data, report).unwrap();
    let last = history["times"].as_array().unwrap().len() - 1;
    for columns in ["states", "controllerVersions", "openclawVersions"] {
        let columns = history[columns].as_array().unwrap();
        let found: Vec<_> = columns
            .iter()
            .map(|series| (series["name"].as_str().unwrap(), &series["sandboxes"][last]))
            .collect();
        let counts: Vec<_> = (1..=8).map(|count| json!(count)).collect();
        assert_eq!(found, texts.into_iter().zip(&counts).rev().collect::<Vec<_>>());
    }
}

#[test]
fn many_texts_of_one_sandbox_displace_no_common_version() {
    let texts: Vec<&'static str> =
        (0..5_000).map(|i| &*Box::leak(longest(i, 1_024).into_boxed_str())).collect();
    let hostile = texts.iter().zip(0..).map(|(text, ago)| CheckIn {
        ago,
        sandbox: "hostile",
        controller: text,
        restarts: 1,
        ..CHECK_IN
    });
    let report = FleetHistoryReport::new(&parameters(&[]), ALL).unwrap();
    let history = run_within_limits(&ordinary_with(hostile), report).unwrap();
    let versions = history["controllerVersions"].as_array().unwrap();
    assert_eq!((versions.len(), &versions[0]["name"]), (9, &json!("1.0.0")));
    let all = versions.iter().flat_map(|series| series["restarts"].as_array().unwrap());
    assert_eq!(all.map(|count| count.as_u64().unwrap()).sum::<u64>(), 5_000 + 9);
}

#[test]
fn the_longest_parameters_keep_queries_within_the_limits() {
    let longest = "'".repeat(96);
    let data = FleetInMemory::from_points((0..3).map(|i| {
        let mut point = CHECK_IN.into_point();
        point.index1 = format!("{i}{}", "'".repeat(95));
        point
    }));
    let pairs = [("limit", "1"), ("sort", "-load")];
    let page = SandboxesReport::new(&parameters(&pairs), ALL).unwrap();
    let next = run_within_limits(&data, page).unwrap()["next"].as_str().unwrap().to_owned();
    let mut all = vec![("cursor", &*next), ("silent", "true"), ("restarted", "true")];
    all.extend(["prefix", "state", "region", "version"].map(|name| (name, &*longest)));
    all.extend(pairs);
    assert!(
        run_within_limits(&data, SandboxesReport::new(&parameters(&all), ALL).unwrap()).is_some()
    );
    let too_long = format!("{longest}x");
    let error = SandboxesReport::new(&parameters(&[("state", &too_long)]), ALL).unwrap_err();
    assert_eq!(error.to_string(), "state: expected at most 96 characters");
}

/// An ordinary fleet: `loops` sandboxes with a crash loop, a cloned one and a silent one.
fn ordinary(loops: usize) -> Vec<CheckIn> {
    const LOOPS: [&str; 3] = ["loop-1", "loop-2", "loop-3"];
    let mut check_ins = Vec::new();
    for sandbox in LOOPS.into_iter().take(loops) {
        // The crash loop of `loop-3` is over.
        let since = if sandbox == "loop-3" { 300 } else { 0 };
        check_ins.extend([50, 40, 30].map(|ago| CheckIn {
            ago: (since + ago) * MINUTE,
            sandbox,
            restarts: 1,
            ..CHECK_IN
        }));
        check_ins.push(CheckIn { sandbox, ..CHECK_IN });
    }
    check_ins.extend([(40, "m1"), (30, "m2"), (20, "m1"), (10, "m2"), (0, "m1")].map(
        |(ago, machine)| CheckIn { ago: ago * MINUTE, sandbox: "cloned", machine, ..CHECK_IN },
    ));
    check_ins.push(CheckIn { ago: HOUR, sandbox: "silent", ..CHECK_IN });
    check_ins
}

/// The sandboxes with an incident of a kind.
fn sandboxes<'a>(response: &'a Value, kind: &str) -> BTreeSet<&'a str> {
    let incidents = response["incidents"].as_array().unwrap().iter();
    let of_kind = incidents.filter(|incident| incident["kind"] == kind);
    of_kind.map(|incident| incident["sandboxId"].as_str().unwrap()).collect()
}

/// The clone incident of a sandbox.
fn clone_of<'a>(response: &'a Value, sandbox: &str) -> Option<&'a Value> {
    let mut incidents = response["incidents"].as_array().unwrap().iter();
    incidents.find(|incident| incident["kind"] == "clone" && incident["sandboxId"] == sandbox)
}

/// An ordinary fleet with the check-ins of one more sandbox.
fn ordinary_with(hostile: impl Iterator<Item = CheckIn>) -> FleetInMemory {
    let mut check_ins = ordinary(3);
    check_ins.extend(hostile);
    FleetInMemory::new(&check_ins)
}

#[test]
fn restarts_of_one_sandbox_hide_no_crash_loop_of_another() {
    let hostile = |i: u64| CheckIn { ago: i, sandbox: "hostile", restarts: 1, ..CHECK_IN };
    for check_ins in [100, 1_000, 20_000] {
        let response = incidents(&ordinary_with((0..check_ins).map(hostile)));
        let loops = sandboxes(&response, "crash_loop");
        assert_eq!(loops, ["hostile", "loop-1", "loop-2", "loop-3"].into());
        assert_eq!(response["complete"], true);
        let first = &response["incidents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|incident| incident["kind"] == "crash_loop")
            .unwrap();
        assert_eq!(
            (&first["sandboxId"], &first["restarts"]),
            (&json!("hostile"), &json!(check_ins))
        );
        assert_eq!(first["mostInAnHour"], check_ins.min(HOUR));
    }
}

#[test]
fn machines_of_one_sandbox_hide_no_clone_of_another() {
    for machines in [2, 50, 51, 2_000, 20_000] {
        let ids: Vec<&'static str> =
            (0..machines).map(|i| &*Box::leak(longest(i, 1_024).into_boxed_str())).collect();
        let hostile = ids.iter().enumerate().flat_map(|(i, machine)| {
            let i = (i % 800) as u64;
            [i, 900 + i].map(|ago| CheckIn { ago, sandbox: "hostile", machine, ..CHECK_IN })
        });
        let response = incidents(&ordinary_with(hostile));
        assert_eq!(sandboxes(&response, "clone"), ["hostile", "cloned"].into());
        let clone = response["incidents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|incident| incident["sandboxId"] == "hostile")
            .unwrap();
        assert_eq!(
            (&clone["severity"], &clone["machines"]),
            (&json!("critical"), &json!(machines))
        );
        assert_eq!(response["complete"], true);
    }
}

#[test]
fn machines_that_check_in_once_each_hide_no_clone() {
    // A stolen token, used each time with another machine id, or with none.
    for machines in [1, 3, 60, 2_000] {
        let ids: Vec<&'static str> = (0..machines)
            .map(|i| if i == 0 { "" } else { &*Box::leak(i.to_string().into_boxed_str()) })
            .collect();
        let own = (0..100).map(|i| CheckIn {
            ago: i * 5 * MINUTE,
            sandbox: "own",
            machine: "own",
            ..CHECK_IN
        });
        let stolen = ids.iter().enumerate().map(|(i, machine)| CheckIn {
            ago: 5 * MINUTE + i as u64,
            sandbox: "own",
            machine,
            state: "shutting_down",
            ..CHECK_IN
        });
        let response = incidents(&ordinary_with(own.chain(stolen)));
        assert_eq!(sandboxes(&response, "clone"), ["own", "cloned"].into(), "{machines}");
    }
}

#[test]
fn repeated_shutdown_announcements_count_as_check_ins() {
    let every = |from: u64, until: u64, machine, state| {
        (until..=from).step_by(300).map(move |ago| CheckIn {
            ago,
            sandbox: "own",
            machine,
            state,
            ..CHECK_IN
        })
    };
    let own = || every(25 * HOUR, 0, "own", "running");
    let severity = |check_ins: Vec<CheckIn>, window: &str| {
        let pairs = parameters(&[("window", window), ("limit", "1000")]);
        let report = IncidentsReport::new(&pairs, ALL).unwrap();
        let response = run_within_limits(&ordinary_with(check_ins.into_iter()), report).unwrap();
        let clone = clone_of(&response, "own");
        clone.map_or_else(String::new, |clone| clone["severity"].as_str().unwrap().to_owned())
    };
    for window in ["1h", "24h"] {
        for from in [25, 20] {
            let stranger = every(from * HOUR, 0, "x", "shutting_down");
            assert_eq!(
                severity(own().chain(stranger).collect(), window),
                "critical",
                "{window}, {from} h"
            );
        }
        let two = every(2 * HOUR, 0, "x", "shutting_down").chain(every(
            2 * HOUR,
            100,
            "y",
            "shutting_down",
        ));
        assert_eq!(severity(two.collect(), window), "critical", "{window}");
    }
    // The stranger reported `running` once.
    let once = CheckIn { ago: 20 * HOUR + 1, sandbox: "own", machine: "x", ..CHECK_IN };
    let stranger = every(20 * HOUR, 0, "x", "shutting_down").chain([once]);
    assert_eq!(severity(own().chain(stranger).collect(), "24h"), "critical");
}

#[test]
fn more_than_50_machines_are_an_incident() {
    let id = |i: u64| -> &'static str { Box::leak(i.to_string().into_boxed_str()) };
    let severity = |check_ins: Vec<CheckIn>| {
        let response = incidents(&ordinary_with(check_ins.into_iter()));
        assert_eq!(response["complete"], true);
        let clone = clone_of(&response, "own");
        clone.map(|clone| (clone["severity"].clone(), clone["machines"].clone()))
    };
    let at = |ago, machine| CheckIn { ago, sandbox: "own", machine, ..CHECK_IN };
    // Machines in succession.
    let moved = |machines: u64| {
        (0..machines).flat_map(move |i| {
            [20 * HOUR - i * 1_000, 20 * HOUR - i * 1_000 - 600].map(|ago| at(ago, id(i)))
        })
    };
    assert_eq!(severity(moved(50).collect()), None);
    assert_eq!(severity(moved(60).collect()), Some((json!("info"), json!(60))));
    // Strangers check in once each, and one more after the sandbox's own machine has died.
    let own = (3 * HOUR..20 * HOUR).step_by(300).map(|ago| at(ago, "own"));
    let strangers = (0..50).map(|i| at(19 * HOUR - i, id(i))).chain([at(30, "late")]);
    let found = severity(own.chain(strangers).collect());
    assert_eq!(found, Some((json!("info"), json!(52))));
    // Strangers ran for an hour, 20 hours ago.
    let own = (0..23 * HOUR).step_by(300).map(|ago| at(ago, "own"));
    let strangers = (0..61).flat_map(|i| [20 * HOUR, 19 * HOUR].map(|ago| at(ago - i, id(i))));
    assert_eq!(severity(own.chain(strangers).collect()), Some((json!("info"), json!(62))));
}

#[test]
fn incidents_of_a_large_fleet_with_short_ids_stay_within_the_limits() {
    let ids: Vec<&'static str> =
        (0..1_100).map(|i| &*Box::leak(i.to_string().into_boxed_str())).collect();
    let check_ins = ids.iter().flat_map(|&sandbox| {
        [("a", 90), ("b", 60), ("c", 30)].map(|(machine, ago)| CheckIn {
            ago: ago * MINUTE,
            sandbox,
            machine,
            restarts: 1,
            weight: 2,
            ..CHECK_IN
        })
    });
    let response = incidents(&FleetInMemory::new(&check_ins.collect::<Vec<_>>()));
    assert_eq!(response["totals"]["silent"], 1_100);
}

#[test]
fn fractional_restarts_count_the_same_in_every_report() {
    let data = FleetInMemory::from_points((0..30).map(|i| {
        let mut point = CHECK_IN.into_point();
        point.index1 = format!("sandbox-{i}");
        point.doubles = vec![0.4; 6];
        point
    }));
    let none = parameters(&[]);
    let fleet = run_within_limits(&data, FleetReport::new(&none, ALL).unwrap()).unwrap();
    assert_eq!((&fleet["restarts"], &fleet["restartedSandboxes"]), (&json!(12), &json!(30)));
    let pairs = parameters(&[("restarted", "true")]);
    let page = run_within_limits(&data, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
    assert_eq!(page["sandboxes"].as_array().unwrap().len(), 30);
}

#[test]
fn a_shortened_state_works_as_a_filter() {
    let state: &'static str = Box::leak("😀".repeat(120).into_boxed_str());
    let data = FleetInMemory::new(&[CheckIn { state, ..CHECK_IN }]);
    let fleet = run_within_limits(&data, FleetReport::new(&parameters(&[]), ALL).unwrap()).unwrap();
    let shown = fleet["supervisorStates"][0]["value"].as_str().unwrap();
    let pairs = parameters(&[("state", shown)]);
    let page = run_within_limits(&data, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
    assert_eq!(page["sandboxes"].as_array().unwrap().len(), 1);
}

#[test]
fn extreme_numbers_of_one_sandbox_leave_sums_of_others_exact() {
    let fleet = |extremes: bool| {
        let mut points: Vec<_> = ordinary(3).into_iter().map(CheckIn::into_point).collect();
        if extremes {
            points.extend([1, 0].map(|ago| {
                let mut point = CheckIn { ago, sandbox: "hostile", ..CHECK_IN }.into_point();
                point.doubles = vec![1e308; 6];
                point
            }));
        }
        points.sort_by_key(|point| point.timestamp_ms);
        let data = FleetInMemory::from_points(points);
        run_within_limits(&data, FleetReport::new(&parameters(&[]), ALL).unwrap()).unwrap()
    };
    let (ordinary, hostile) = (fleet(false), fleet(true));
    for (name, most) in [
        ("restarts", 1e9),
        ("bandwidthBytesIn", 2_f64.powi(53)),
        ("bandwidthBytesOut", 2_f64.powi(53)),
    ] {
        let [before, after] = [&ordinary, &hostile].map(|fleet| fleet[name].as_f64().unwrap());
        assert!((after - before - 2.0 * most).abs() <= 1.0, "{name}: {before} and {after}");
    }
    assert_eq!(ordinary["loadAvg5m"]["p50"], hostile["loadAvg5m"]["p50"]);
}

/// Numbers that are hard to page through: repeated, fractional, huge or tiny.
fn number() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![
        0.0,
        0.1,
        0.2,
        0.3,
        0.5,
        1.0,
        1.5,
        5e-324,
        1e9,
        1e15,
        9_007_199_254_740_993.0,
        1e19,
        1e308,
        f64::MAX,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn paging_ends_and_returns_each_sandbox_once(
        numbers in prop::collection::vec((number(), number(), number(), 0..3_u64), 1..12),
        limit in 1..4_usize,
        sort in prop::sample::select(vec!["sandbox_id", "last_seen", "restarts", "load", "uptime"]),
        descending in any::<bool>(),
    ) {
        let mut points: Vec<_> = numbers.iter().enumerate().flat_map(|(i, (restarts, uptime, load, ago))| {
            (0..2).map(move |again| {
                let mut point = CheckIn { ago: ago + again, ..CHECK_IN }.into_point();
                point.index1 = format!("sandbox-{i}");
                point.doubles = vec![*restarts, 0.0, *uptime, *load, *restarts, *restarts];
                point
            })
        }).collect();
        points.sort_by_key(|point| point.timestamp_ms);
        let data = FleetInMemory::from_points(points);
        let sort = format!("{}{sort}", if descending { "-" } else { "" });
        let limit = limit.to_string();
        let mut cursor = None::<String>;
        let mut found = Vec::new();
        for _ in 0..=numbers.len() {
            let mut pairs = vec![("sort", &*sort), ("limit", &*limit)];
            pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = SandboxesReport::new(&parameters(&pairs), ALL).unwrap();
            let page = run_within_limits(&data, page).unwrap();
            let ids = page["sandboxes"].as_array().unwrap().iter();
            found.extend(ids.map(|sandbox| sandbox["sandboxId"].as_str().unwrap().to_owned()));
            cursor = page["next"].as_str().map(ToOwned::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        prop_assert_eq!(cursor, None, "the list has not ended");
        found.sort_unstable();
        let mut expected: Vec<_> = (0..numbers.len()).map(|i| format!("sandbox-{i}")).collect();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}
