//! Whatever a sandbox may have written, no report becomes slow, large or wrong for the others: limits on
//! rows, texts and numbers, with fleets of nothing but extremes. Some points are older than the contract's
//! bounds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod in_memory;

use std::collections::BTreeSet;

use aesql::Point;
use in_memory::{ALL, CHECK_IN, CheckIn, FleetInMemory, HOUR, MINUTE, NOW, parameters};
use kiloclaw_fleet::{
    FleetReport, HistoryReport, IncidentsReport, Progress, Report, SandboxReport, SandboxesReport,
    Time,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The longest query that Analytics Engine takes.
const MAX_SQL: usize = 10_000;

/// The most that a round of answers may have for the Worker to read it, in bytes.
const MAX_ANSWERS: usize = 8 << 20;

/// The most that a round of answers and the report that is made of it may take up: an isolate has
/// 128 MiB, and takes check-ins meanwhile.
const MAX_MEMORY: u64 = 32 << 20;

/// A text as long as the contract allows, of which JSON makes six times as much.
fn longest(tag: usize, bytes: usize) -> String {
    let tag = tag.to_string();
    format!("{tag}{}", "\u{1}".repeat(bytes - tag.len()))
}

/// A point of a sandbox that makes each value as large as it can.
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

/// Asks a question; returns the report. No query is too long, and neither are the answers too large nor
/// is what is made of them.
fn ask_within_limits(of: &FleetInMemory, mut question: impl Report) -> Option<Value> {
    let mut queries = question.queries();
    loop {
        let mut answers = Vec::new();
        for sql in &queries {
            assert!(sql.chars().count() <= MAX_SQL, "{} characters: {sql}", sql.chars().count());
            answers.push(of.ask(sql));
        }
        let answered = answers.iter().map(String::len).sum::<usize>();
        assert!(answered <= MAX_ANSWERS, "{answered} bytes for {queries:?}");
        let mut next = None;
        let used = allocation_counter::measure(|| next = Some(question.read(&answers).unwrap()));
        let memory = used.bytes_max + u64::try_from(answered).unwrap();
        assert!(memory <= MAX_MEMORY, "{memory} bytes for {queries:?}");
        match next.unwrap() {
            Progress::Query(more) => queries = more,
            Progress::Done(reply) => return reply.map(|json| serde_json::from_str(&json).unwrap()),
        }
    }
}

fn ask_incidents(of: &FleetInMemory) -> Value {
    let question = IncidentsReport::new(&parameters(&[("limit", "1000")]), ALL).unwrap();
    ask_within_limits(of, question).unwrap()
}

#[test]
fn a_fleet_of_extremes_fits_into_memory() {
    // Silent, cloned, in a crash loop, and like no other.
    let points = [50, 40, 30, 20].into_iter().flat_map(|ago| {
        (0..2_500).map(move |sandbox| extreme(sandbox, (ago / 10 % 2) as usize, ago * MINUTE))
    });
    let of = FleetInMemory::of(points);
    let none = parameters(&[]);

    let fleet = ask_within_limits(&of, FleetReport::new(&none, ALL).unwrap()).unwrap();
    assert_eq!((&fleet["sandboxes"], &fleet["silent"]), (&json!(2_500), &json!(2_500)));
    assert_eq!((&fleet["complete"], &fleet["missing"]), (&json!(false), &json!(["facets"])));
    assert_eq!(fleet["restarts"], json!(10_000_u64 * 1_000_000_000));

    let incidents = ask_incidents(&of);
    assert_eq!(incidents["totals"]["silent"], 2_500);
    assert_eq!(incidents["incidents"].as_array().unwrap().len(), 1_000);
    assert_eq!(incidents["missing"], json!(["clones", "crash_loops"]));

    for sort in ["sandbox_id", "-restarts", "load"] {
        let pairs = parameters(&[("limit", "1000"), ("sort", sort)]);
        let page = ask_within_limits(&of, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
        assert_eq!(page["sandboxes"].as_array().unwrap().len(), 1_000);
    }
    let id = longest(7, 96);
    let question = SandboxReport::new(&id, &none, Time(NOW)).unwrap();
    let report = ask_within_limits(&of, question).unwrap();
    assert_eq!(report["sandbox"]["supervisorState"].as_str().unwrap().chars().count(), 96);
    assert_eq!(report["load"]["max"], 4_194_304.0);
    let question = HistoryReport::new(&id, &none, Time(NOW)).unwrap();
    assert!(ask_within_limits(&of, question).is_some());
}

#[test]
fn the_longest_history_fits_into_memory() {
    let points = (0..7 * 24 * 12).rev().map(|i| extreme(1, i, i as u64 * 5 * MINUTE));
    let of = FleetInMemory::of(points);
    let pairs = parameters(&[("window", "7d"), ("step", "5m")]);
    let history = HistoryReport::new(&longest(1, 96), &pairs, Time(NOW)).unwrap();
    let report = ask_within_limits(&of, history).unwrap();
    assert_eq!(report["steps"].as_array().unwrap().len(), 2_017);
    let pairs = parameters(&[("window", "7d")]);
    let sandbox = SandboxReport::new(&longest(1, 96), &pairs, Time(NOW)).unwrap();
    let report = ask_within_limits(&of, sandbox).unwrap();
    assert_eq!(report["machines"].as_array().unwrap().len(), 100, "the latest");
}

#[test]
fn the_longest_parameters_make_no_query_too_long() {
    let longest = "'".repeat(96);
    let of = FleetInMemory::of((0..3).map(|i| {
        let mut point = CHECK_IN.into_point();
        point.index1 = format!("{i}{}", "'".repeat(95));
        point
    }));
    let pairs = [("limit", "1"), ("sort", "-load")];
    let page = SandboxesReport::new(&parameters(&pairs), ALL).unwrap();
    let next = ask_within_limits(&of, page).unwrap()["next"].as_str().unwrap().to_owned();
    let mut all = vec![("cursor", &*next), ("silent", "true"), ("restarted", "true")];
    all.extend(["state", "region", "version"].map(|name| (name, &*longest)));
    all.extend(pairs);
    assert!(
        ask_within_limits(&of, SandboxesReport::new(&parameters(&all), ALL).unwrap()).is_some()
    );
    let too_long = format!("{longest}x");
    let error = SandboxesReport::new(&parameters(&[("state", &too_long)]), ALL).unwrap_err();
    assert_eq!(error.to_string(), "state: expected at most 96 characters");
}

/// Sandboxes of an ordinary fleet: `loops` of them are in a crash loop, one is cloned, one is silent.
fn ordinary(loops: usize) -> Vec<CheckIn> {
    const LOOPS: [&str; 3] = ["loop-1", "loop-2", "loop-3"];
    let mut check_ins = Vec::new();
    for sandbox in LOOPS.into_iter().take(loops) {
        // One of them is over.
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
fn sandboxes<'a>(report: &'a Value, kind: &str) -> BTreeSet<&'a str> {
    let incidents = report["incidents"].as_array().unwrap().iter();
    let of_kind = incidents.filter(|one| one["kind"] == kind);
    of_kind.map(|one| one["sandboxId"].as_str().unwrap()).collect()
}

/// An ordinary fleet, and what one sandbox wrote beside it.
fn beside(hostile: impl Iterator<Item = CheckIn>) -> FleetInMemory {
    let mut check_ins = ordinary(3);
    check_ins.extend(hostile);
    FleetInMemory::new(&check_ins)
}

#[test]
fn restarts_of_one_sandbox_hide_none_of_others() {
    let hostile = |i: u64| CheckIn { ago: i, sandbox: "hostile", restarts: 1, ..CHECK_IN };
    for check_ins in [100, 1_000, 20_000] {
        let report = ask_incidents(&beside((0..check_ins).map(hostile)));
        let loops = sandboxes(&report, "crash_loop");
        assert_eq!(loops, ["hostile", "loop-1", "loop-2", "loop-3"].into());
        assert_eq!(report["complete"], true);
        let first = &report["incidents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["kind"] == "crash_loop")
            .unwrap();
        assert_eq!(
            (&first["sandboxId"], &first["restarts"]),
            (&json!("hostile"), &json!(check_ins))
        );
        assert_eq!(first["mostInAnHour"], check_ins.min(HOUR));
    }
}

#[test]
fn machines_of_one_sandbox_hide_none_of_others() {
    for machines in [2, 50, 51, 2_000, 20_000] {
        let ids: Vec<&'static str> =
            (0..machines).map(|i| &*Box::leak(longest(i, 1_024).into_boxed_str())).collect();
        let hostile = ids.iter().enumerate().flat_map(|(i, machine)| {
            let i = (i % 800) as u64;
            [i, 900 + i].map(|ago| CheckIn { ago, sandbox: "hostile", machine, ..CHECK_IN })
        });
        let report = ask_incidents(&beside(hostile));
        assert_eq!(sandboxes(&report, "clone"), ["hostile", "cloned"].into());
        let clone = report["incidents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["sandboxId"] == "hostile")
            .unwrap();
        assert_eq!(
            (&clone["severity"], &clone["machines"]),
            (&json!("critical"), &json!(machines))
        );
        assert_eq!(report["complete"], true);
    }
}

#[test]
fn strangers_that_come_once_each_hide_no_clone() {
    // A stolen token, each time from what looks like another machine, or like none.
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
        let report = ask_incidents(&beside(own.chain(stolen)));
        assert_eq!(sandboxes(&report, "clone"), ["own", "cloned"].into(), "{machines}");
    }
}

#[test]
fn good_byes_that_go_on_are_check_ins_like_others() {
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
        let question = IncidentsReport::new(&pairs, ALL).unwrap();
        let report = ask_within_limits(&beside(check_ins.into_iter()), question).unwrap();
        let of = report["incidents"].as_array().unwrap().iter();
        let mut clones = of.filter(|one| one["kind"] == "clone" && one["sandboxId"] == "own");
        clones.next().map_or_else(String::new, |one| one["severity"].as_str().unwrap().to_owned())
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
    // It ran once.
    let once = CheckIn { ago: 20 * HOUR + 1, sandbox: "own", machine: "x", ..CHECK_IN };
    let stranger = every(20 * HOUR, 0, "x", "shutting_down").chain([once]);
    assert_eq!(severity(own().chain(stranger).collect(), "24h"), "critical");
}

#[test]
fn so_many_machines_are_an_incident_however_they_come() {
    let id = |i: u64| -> &'static str { Box::leak(i.to_string().into_boxed_str()) };
    let severity = |check_ins: Vec<CheckIn>| {
        let report = ask_incidents(&beside(check_ins.into_iter()));
        assert_eq!(report["complete"], true);
        let of = report["incidents"].as_array().unwrap().iter();
        let mut clones = of.filter(|one| one["kind"] == "clone" && one["sandboxId"] == "own");
        clones.next().map(|one| (one["severity"].clone(), one["machines"].clone()))
    };
    let at = |ago, machine| CheckIn { ago, sandbox: "own", machine, ..CHECK_IN };
    // One after the other, now and then.
    let moved = |machines: u64| {
        (0..machines).flat_map(move |i| {
            [20 * HOUR - i * 1_000, 20 * HOUR - i * 1_000 - 600].map(|ago| at(ago, id(i)))
        })
    };
    assert_eq!(severity(moved(50).collect()), None);
    assert_eq!(severity(moved(60).collect()), Some((json!("info"), json!(60))));
    // Strangers once each, and one after the own machine has died.
    let own = (3 * HOUR..20 * HOUR).step_by(300).map(|ago| at(ago, "own"));
    let strangers = (0..50).map(|i| at(19 * HOUR - i, id(i))).chain([at(30, "late")]);
    let found = severity(own.chain(strangers).collect());
    assert_eq!(found, Some((json!("info"), json!(52))));
    // An hour long, 20 hours ago.
    let own = (0..23 * HOUR).step_by(300).map(|ago| at(ago, "own"));
    let strangers = (0..61).flat_map(|i| [20 * HOUR, 19 * HOUR].map(|ago| at(ago - i, id(i))));
    assert_eq!(severity(own.chain(strangers).collect()), Some((json!("info"), json!(62))));
}

#[test]
fn a_large_fleet_of_short_ids_is_asked_about() {
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
    let report = ask_incidents(&FleetInMemory::new(&check_ins.collect::<Vec<_>>()));
    assert_eq!(report["totals"]["silent"], 1_100);
}

#[test]
fn fractions_count_alike_everywhere() {
    let of = FleetInMemory::of((0..30).map(|i| {
        let mut point = CHECK_IN.into_point();
        point.index1 = format!("sandbox-{i}");
        point.doubles = vec![0.4; 6];
        point
    }));
    let none = parameters(&[]);
    let fleet = ask_within_limits(&of, FleetReport::new(&none, ALL).unwrap()).unwrap();
    assert_eq!((&fleet["restarts"], &fleet["restartedSandboxes"]), (&json!(12), &json!(30)));
    let pairs = parameters(&[("restarted", "true")]);
    let page = ask_within_limits(&of, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
    assert_eq!(page["sandboxes"].as_array().unwrap().len(), 30);
}

#[test]
fn what_is_shown_can_be_filtered_by() {
    let state: &'static str = Box::leak("😀".repeat(120).into_boxed_str());
    let of = FleetInMemory::new(&[CheckIn { state, ..CHECK_IN }]);
    let fleet = ask_within_limits(&of, FleetReport::new(&parameters(&[]), ALL).unwrap()).unwrap();
    let shown = fleet["supervisorStates"][0]["value"].as_str().unwrap();
    let pairs = parameters(&[("state", shown)]);
    let page = ask_within_limits(&of, SandboxesReport::new(&pairs, ALL).unwrap()).unwrap();
    assert_eq!(page["sandboxes"].as_array().unwrap().len(), 1);
}

#[test]
fn figures_of_one_sandbox_leave_those_of_others_in_the_sum() {
    let of = |extremes: bool| {
        let mut points: Vec<_> = ordinary(3).into_iter().map(CheckIn::into_point).collect();
        if extremes {
            points.extend([1, 0].map(|ago| {
                let mut point = CheckIn { ago, sandbox: "hostile", ..CHECK_IN }.into_point();
                point.doubles = vec![1e308; 6];
                point
            }));
        }
        points.sort_by_key(|point| point.timestamp_ms);
        let of = FleetInMemory::of(points);
        ask_within_limits(&of, FleetReport::new(&parameters(&[]), ALL).unwrap()).unwrap()
    };
    let (ordinary, hostile) = (of(false), of(true));
    for (name, most) in [
        ("restarts", 1e9),
        ("bandwidthBytesIn", 2_f64.powi(53)),
        ("bandwidthBytesOut", 2_f64.powi(53)),
    ] {
        let [before, after] = [&ordinary, &hostile].map(|of| of[name].as_f64().unwrap());
        assert!((after - before - 2.0 * most).abs() <= 1.0, "{name}: {before} and {after}");
    }
    assert_eq!(ordinary["loadAvg5m"]["p50"], hostile["loadAvg5m"]["p50"]);
}

/// Numbers that are hard to page through: alike, fractional, without a bound.
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
    fn every_list_ends_and_has_each_sandbox_once(
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
        let of = FleetInMemory::of(points);
        let sort = format!("{}{sort}", if descending { "-" } else { "" });
        let limit = limit.to_string();
        let mut cursor = None::<String>;
        let mut found = Vec::new();
        for _ in 0..=numbers.len() {
            let mut pairs = vec![("sort", &*sort), ("limit", &*limit)];
            pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = SandboxesReport::new(&parameters(&pairs), ALL).unwrap();
            let page = ask_within_limits(&of, page).unwrap();
            let ids = page["sandboxes"].as_array().unwrap().iter();
            found.extend(ids.map(|one| one["sandboxId"].as_str().unwrap().to_owned()));
            cursor = page["next"].as_str().map(ToOwned::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        prop_assert_eq!(cursor, None, "it goes on");
        found.sort_unstable();
        let mut expected: Vec<_> = (0..numbers.len()).map(|i| format!("sandbox-{i}")).collect();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}
