//! Every report over an in-memory fleet, queried through the dialect's interpreter, which refuses the same SQL as
//! Analytics Engine. The expected values are computed without SQL.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test helpers")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

mod in_memory;

use std::collections::{BTreeMap, BTreeSet};

use in_memory::{ALL, CHECK_IN, CheckIn, FleetInMemory, HOUR, MINUTE, NOW, parameters};
use kiloclaw_fleet::{
    Facet, FleetHistoryReport, FleetReport, HistoryReport, IncidentsReport, Progress, QueryScope,
    Report, SandboxReport, SandboxesReport, Time,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn ago(seconds: u64) -> Time {
    Time(NOW - seconds)
}

fn fleet(
    data: &FleetInMemory,
    pairs: &[(&str, &str)],
    scope: QueryScope<'_>,
) -> kiloclaw_fleet::Fleet {
    let report = FleetReport::new(&parameters(pairs), scope).unwrap();
    let [sandboxes, totals, groups] =
        [report.sandboxes_sql(), report.totals_sql(), report.groups_sql()]
            .map(|sql| data.query(&sql));
    report.report(&sandboxes, &totals, &groups).unwrap()
}

fn sandbox(data: &FleetInMemory, id: &str) -> Option<kiloclaw_fleet::SandboxAnswer> {
    let report = SandboxReport::new(id, &parameters(&[]), Time(NOW)).unwrap();
    report.answer(&data.query(&report.sandbox_sql()), &data.query(&report.machines_sql())).unwrap()
}

fn incidents(data: &FleetInMemory, pairs: &[(&str, &str)], scope: QueryScope<'_>) -> Value {
    in_memory::run(data, IncidentsReport::new(&parameters(pairs), scope).unwrap()).unwrap()
}

fn incidents_of_kind<'a>(response: &'a Value, kind: &str) -> Vec<&'a Value> {
    let incidents = response["incidents"].as_array().unwrap();
    incidents.iter().filter(|incident| incident["kind"] == kind).collect()
}

/// The sandbox ids on each page of a listing.
fn pages(data: &FleetInMemory, pairs: &[(&str, &str)]) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut pairs = pairs.to_vec();
        pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let report = SandboxesReport::new(&parameters(&pairs), ALL).unwrap();
        let page = report.answer(&data.query(&report.sql())).unwrap();
        pages.push(page.sandboxes.into_iter().map(|sandbox| sandbox.sandbox_id).collect());
        cursor = page.next;
        if cursor.is_none() {
            return pages;
        }
    }
}

/// Three sandboxes within the window: a healthy one, one that crashed and has no region, and one that shut
/// down. The fourth, `d`, last reported before it.
fn three_sandboxes() -> FleetInMemory {
    FleetInMemory::new(&[
        CheckIn { ago: 10 * MINUTE, load: 0.1, weight: 3, ..CHECK_IN },
        CheckIn { ago: 5 * MINUTE, load: 0.2, machine: "m2", controller: "1.1.0", ..CHECK_IN },
        CheckIn { ago: 20 * MINUTE, sandbox: "b", restarts: 1, load: 4.0, machine: "", ..CHECK_IN },
        CheckIn {
            ago: 16 * MINUTE,
            sandbox: "b",
            state: "crashed",
            region: "",
            restarts: 2,
            load: 8.0,
            exit: "signal:SIGKILL",
            machine: "",
            openclaw: "",
            weight: 2,
            ..CHECK_IN
        },
        CheckIn { ago: 3 * HOUR, sandbox: "c", state: "shutting_down", ..CHECK_IN },
        CheckIn { ago: 25 * HOUR, sandbox: "d", restarts: 100, ..CHECK_IN },
    ])
}

#[test]
fn the_fleet_report_counts_weights_and_bounds_check_ins() {
    let fleet = fleet(&three_sandboxes(), &[], ALL);
    assert_eq!((fleet.as_of, fleet.from), (ago(0), ago(24 * HOUR)));
    assert_eq!((fleet.sandboxes, fleet.reporting, fleet.silent), (3, 1, 2));
    assert_eq!(fleet.silent_after_shutdown, 1);
    assert_eq!(fleet.machines, 2, "check-ins without a machine id do not count");
    assert_eq!(fleet.check_ins, 3 + 1 + 1 + 2 + 1);
    assert_eq!((fleet.restarts, fleet.restarted_sandboxes), (1 + 2 * 2, 1));
    assert_eq!((fleet.bandwidth_bytes_in, fleet.bandwidth_bytes_out), (80, 160));
    // 0.1 0.1 0.1 0.2 0.5 4 8 8
    assert_eq!((fleet.load_avg_5m.p50, fleet.load_avg_5m.p95), (Some(0.2), Some(8.0)));
    let facet = |value: Option<&str>, sandboxes, reporting| Facet {
        value: value.map(Into::into),
        sandboxes,
        reporting,
    };
    assert_eq!(
        fleet.supervisor_states,
        [
            facet(Some("crashed"), 1, 0),
            facet(Some("running"), 1, 1),
            facet(Some("shutting_down"), 1, 0)
        ]
    );
    assert_eq!(fleet.controller_versions, [facet(Some("1.0.0"), 2, 0), facet(Some("1.1.0"), 1, 1)]);
    assert_eq!(fleet.openclaw_versions, [facet(Some("2.0.0"), 2, 1), facet(None, 1, 0)]);
    assert_eq!(fleet.fly_regions, [facet(Some("fra"), 2, 1), facet(None, 1, 0)]);
    assert_eq!((fleet.sample_interval, fleet.complete), (3, true));
}

#[test]
fn a_fleet_without_check_ins_is_empty() {
    let fleet = fleet(&FleetInMemory::new(&[]), &[], ALL);
    assert_eq!((fleet.sandboxes, fleet.silent, fleet.machines, fleet.check_ins), (0, 0, 0, 0));
    assert_eq!((fleet.load_avg_5m.p50, fleet.load_avg_5m.p95), (None, None));
    let incidents = incidents(&FleetInMemory::new(&[]), &[], ALL);
    assert_eq!(incidents["incidents"], json!([]));
}

#[test]
fn window_and_silent_after_set_the_bounds() {
    let fleet = fleet(&three_sandboxes(), &[("window", "2h"), ("silent_after", "20m")], ALL);
    assert_eq!((fleet.sandboxes, fleet.reporting, fleet.silent), (2, 2, 0));
    assert_eq!((fleet.from, fleet.silent_after_seconds), (ago(2 * HOUR), 1_200));
}

#[test]
fn an_operator_of_one_sandbox_sees_only_that_one() {
    let only = QueryScope { only: Some("b"), ..ALL };
    let fleet = fleet(&three_sandboxes(), &[], only);
    assert_eq!((fleet.sandboxes, fleet.check_ins, fleet.machines), (1, 3, 0));
    let report = SandboxesReport::new(&parameters(&[]), only).unwrap();
    let page = report.answer(&three_sandboxes().query(&report.sql())).unwrap();
    assert_eq!(page.sandboxes.len(), 1);
    assert_eq!(page.sandboxes[0].sandbox_id, "b");
    let incidents = incidents(&three_sandboxes(), &[], only);
    assert_eq!(incidents["totals"], json!({ "clones": 0, "crashLoops": 1, "silent": 1 }));
    // The principal must not see whether the other sandboxes are silent, too.
    assert!(incidents_of_kind(&incidents, "no_check_ins").is_empty());
}

#[test]
fn the_sandbox_report_has_every_field() {
    let response = sandbox(&three_sandboxes(), "b").unwrap();
    let b = response.sandbox;
    assert_eq!((b.first_seen, b.last_seen), (ago(20 * MINUTE), ago(16 * MINUTE)));
    assert!(b.silent);
    assert_eq!((b.supervisor_state.as_str(), b.controller_version.as_str()), ("crashed", "1.0.0"));
    assert_eq!(
        (b.machine_id, b.fly_region, b.openclaw_version, b.openclaw_commit),
        Default::default()
    );
    assert_eq!(b.last_exit_reason.as_deref(), Some("signal:SIGKILL"));
    assert_eq!((b.check_ins, b.restarts.to_bits(), b.total_restarts), (3, 5_f64.to_bits(), 7));
    assert_eq!((b.bandwidth_bytes_in, b.bandwidth_bytes_out), (30, 60));
    assert_eq!((response.load.p50, response.load.p95), (Some(8.0), Some(8.0)));
    assert_eq!(response.load.highest, Some(8.0));
    let ids = |id| -> Vec<_> {
        let machines = sandbox(&three_sandboxes(), id).unwrap().machines;
        machines.into_iter().map(|machine| (machine.machine_id, machine.check_ins)).collect()
    };
    assert_eq!(ids("b"), [(None, 3)], "the machine without an id");
    assert_eq!(ids("a"), [(Some("m2".into()), 1), (Some("m1".into()), 3)]);
    assert_eq!(sandbox(&three_sandboxes(), "d"), None, "last seen before the window");
    assert_eq!(sandbox(&three_sandboxes(), "x"), None);
    for id in ["", &"x".repeat(97)] {
        let error = SandboxReport::new(id, &parameters(&[]), Time(NOW)).unwrap_err();
        assert_eq!(error.to_string(), "sandboxId: expected 1 to 96 bytes");
    }
}

#[test]
fn history_includes_steps_without_check_ins() {
    let report =
        HistoryReport::new("b", &parameters(&[("window", "20m"), ("step", "5m")]), Time(NOW))
            .unwrap();
    let history = report.answer(&three_sandboxes().query(&report.sql())).unwrap().unwrap();
    // It is 03:04:05; the first step starts at 02:40.
    assert_eq!(history.from.to_string(), "2026-01-02T02:40:00Z");
    let counts: Vec<_> = history.steps.iter().map(|step| (step.check_ins, step.restarts)).collect();
    assert_eq!(counts, [(1, 1), (2, 4), (0, 0), (0, 0), (0, 0)]);
    assert_eq!(history.steps[1].start.to_string(), "2026-01-02T02:45:00Z");
    assert_eq!(history.steps[1].load_avg_5m, Some(8.0));
    assert_eq!(history.steps[1].supervisor_state.as_deref(), Some("crashed"));
    assert_eq!(history.steps[1].last_exit_reason.as_deref(), Some("signal:SIGKILL"));
    assert_eq!((history.steps[2].load_avg_5m, history.steps[2].uptime_seconds), (None, None));
    let report = HistoryReport::new("x", &parameters(&[]), Time(NOW)).unwrap();
    assert_eq!(report.answer(&three_sandboxes().query(&report.sql())).unwrap(), None);
}

#[test]
fn history_has_at_most_2016_steps() {
    let new = |pairs: &[_]| HistoryReport::new("a", &parameters(pairs), Time(NOW));
    for window in ["1m", "1h", "7d", "90d"] {
        assert!(new(&[("window", window)]).is_ok(), "the default step fits {window}");
    }
    for (window, step) in [("1h", 300), ("7d", 300), ("8d", 360), ("90d", 3_900)] {
        let sql = new(&[("window", window)]).unwrap().sql();
        assert!(sql.contains(&format!(", {step}) * {step} AS start")), "{window}: {sql}");
    }
    assert!(new(&[("window", "7d"), ("step", "5m")]).is_ok());
    assert_eq!(
        new(&[("window", "90d"), ("step", "5m")]).unwrap_err().to_string(),
        "step: expected 65m or more: window / step is at most 2016"
    );
    assert!(new(&[("window", "90d"), ("step", "65m")]).is_ok());
}

fn fleet_history(data: &FleetInMemory, pairs: &[(&str, &str)], scope: QueryScope<'_>) -> Value {
    in_memory::run(data, FleetHistoryReport::new(&parameters(pairs), scope).unwrap()).unwrap()
}

#[test]
fn the_fleets_history_counts_each_sandbox_once_per_step() {
    let data = FleetInMemory::new(&[
        // Upgraded within a step, with a restart of each version.
        CheckIn { ago: 14 * MINUTE, restarts: 1, openclaw: "", ..CHECK_IN },
        CheckIn { ago: 13 * MINUTE, restarts: 2, controller: "1.1.0", weight: 3, ..CHECK_IN },
        CheckIn { ago: 12 * MINUTE, sandbox: "b", ..CHECK_IN },
        CheckIn { ago: MINUTE, sandbox: "b", state: "crashed", restarts: 5, ..CHECK_IN },
        CheckIn { ago: 2 * HOUR, sandbox: "c", state: "stopped", ..CHECK_IN },
    ]);
    let pairs = [("window", "10m"), ("step", "5m")];
    // It is 03:04:05; the first step starts at 02:50.
    assert_eq!(
        fleet_history(&data, &pairs, ALL),
        json!({
            "asOf": "2026-01-02T03:04:05Z",
            "from": "2026-01-02T02:50:00Z",
            "stepSeconds": 300,
            "sampleInterval": 3,
            "times": ["2026-01-02T02:50:00Z", "2026-01-02T02:55:00Z", "2026-01-02T03:00:00Z"],
            "sandboxes": [2, 0, 1],
            "states": [
                { "name": "running", "sandboxes": [2, 0, 0] },
                { "name": "crashed", "sandboxes": [0, 0, 1] },
            ],
            "controllerVersions": [
                { "name": "1.0.0", "sandboxes": [1, 0, 1], "restarts": [1, 0, 5] },
                { "name": "1.1.0", "sandboxes": [1, 0, 0], "restarts": [6, 0, 0] },
            ],
            "openclawVersions": [
                { "name": "2.0.0", "sandboxes": [2, 0, 1] },
                { "name": "", "sandboxes": [0, 0, 0] },
            ],
        })
    );
    let only = fleet_history(&data, &pairs, QueryScope { only: Some("b"), ..ALL });
    assert_eq!(only["sandboxes"], json!([1, 0, 1]));
    let other = fleet_history(&data, &pairs, QueryScope { only: Some("x"), ..ALL });
    assert_eq!(other["sandboxes"], json!([0, 0, 0]));
    assert_eq!((&other["states"], &other["sampleInterval"]), (&json!([]), &json!(1)));
}

#[test]
fn the_fleets_history_names_the_eight_most_common_values() {
    // `v0` has one sandbox, `v9` ten.
    let versions = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"];
    let ids: Vec<&'static str> = (0..10).map(|i| &*i.to_string().leak()).collect();
    let check_ins = versions.iter().enumerate().flat_map(|(i, controller)| {
        ids.iter().take(i + 1).map(move |sandbox| CheckIn {
            ago: (20 - i as u64) * HOUR,
            sandbox,
            controller,
            restarts: 1,
            ..CHECK_IN
        })
    });
    let data = FleetInMemory::new(&check_ins.collect::<Vec<_>>());
    let history = fleet_history(&data, &[("step", "1h")], ALL);
    let series: Vec<_> = history["controllerVersions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|series| {
            let [sandboxes, restarts] = ["sandboxes", "restarts"].map(|of| {
                series[of].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>()
            });
            assert_eq!(sandboxes, restarts);
            (series["name"].as_str(), sandboxes)
        })
        .collect();
    let mut expected: Vec<_> =
        (2..10_u8).rev().map(|i| (Some(versions[usize::from(i)]), u64::from(i) + 1)).collect();
    expected.push((None, 1 + 2));
    assert_eq!(series, expected);
    assert_eq!(history["states"].as_array().unwrap().len(), 1, "there are no others");
}

#[test]
fn equally_common_values_are_named_in_order() {
    let states = ["j", "i", "h", "g", "f", "e", "d", "c", "b", "a"];
    let data =
        FleetInMemory::new(&states.map(|state| CheckIn { sandbox: state, state, ..CHECK_IN }));
    let history = fleet_history(&data, &[], ALL);
    let names: Vec<_> = history["states"]
        .as_array()
        .unwrap()
        .iter()
        .map(|series| series["name"].as_str())
        .collect();
    let mut expected = ["a", "b", "c", "d", "e", "f", "g", "h"].map(Some).to_vec();
    expected.push(None);
    assert_eq!(names, expected);
}

#[test]
fn the_fleets_history_has_at_most_288_steps() {
    let new = |pairs: &[_]| FleetHistoryReport::new(&parameters(pairs), ALL).map(drop);
    assert_eq!(new(&[("window", "24h"), ("step", "5m")]), Ok(()));
    assert_eq!(
        new(&[("window", "24h"), ("step", "4m")]).unwrap_err().to_string(),
        "step: expected 5m or more: window / step is at most 288"
    );
    assert_eq!(
        new(&[("silent_after", "5m")]).unwrap_err().to_string(),
        "silent_after: expected one of the parameters window, step"
    );
    let data = FleetInMemory::new(&[]);
    for (window, step, steps) in
        [("1m", 300, 2), ("1h", 300, 13), ("24h", 900, 97), ("7d", 6_300, 97), ("90d", 81_000, 97)]
    {
        let history = fleet_history(&data, &[("window", window)], ALL);
        assert_eq!(history["stepSeconds"], step, "{window}");
        assert!(history["times"].as_array().unwrap().len() <= steps, "{window}");
        assert_eq!(history["times"][0], history["from"]);
    }
    for (now, steps) in [(NOW, 289), (NOW - NOW % 300, 289), (NOW - NOW % 300 + 1, 289)] {
        let scope = QueryScope { now: Time(now), only: None };
        let history = fleet_history(&data, &[("window", "24h"), ("step", "5m")], scope);
        assert_eq!(history["times"].as_array().unwrap().len(), steps);
    }
}

#[test]
fn a_prefix_selects_sandboxes_by_the_beginning_of_their_ids() {
    let ids =
        ["sbx-1", "sbx-10", "sbx-2", "Sbx-1", "x-sbx-1", "sbx%", "s_x", "o'b", "o'c", "ü1", "\\"];
    let data = FleetInMemory::new(&ids.map(|sandbox| CheckIn { sandbox, ..CHECK_IN }));
    let found = |pairs: &[_]| pages(&data, pairs).concat();
    for prefix in
        ids.iter().chain(&["s", "sbx-", "%", "_", "sbx-1%", "o'", "'", "ü", "%'", "_'", "(", "x"])
    {
        let mut expected: Vec<_> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
        expected.sort_unstable();
        assert_eq!(
            found(&[("prefix", prefix)]),
            expected.iter().map(|id| **id).collect::<Vec<_>>(),
            "{prefix}"
        );
    }
    // With other filters, a sort and pages.
    let pairs = [("prefix", "sbx"), ("sort", "-sandbox_id"), ("limit", "1"), ("state", "running")];
    assert_eq!(found(&pairs), ["sbx-2", "sbx-10", "sbx-1", "sbx%"]);
    assert_eq!(found(&[("prefix", "sbx"), ("state", "crashed")]), [""; 0]);
    let only = QueryScope { only: Some("sbx-2"), ..ALL };
    for (prefix, seen) in [("sbx", 1), ("sbx-1", 0)] {
        let report = SandboxesReport::new(&parameters(&[("prefix", prefix)]), only).unwrap();
        assert_eq!(report.answer(&data.query(&report.sql())).unwrap().sandboxes.len(), seen);
    }
    for prefix in ["", &"x".repeat(97), &"ü".repeat(49)] {
        let error = SandboxesReport::new(&parameters(&[("prefix", prefix)]), ALL).unwrap_err();
        assert_eq!(error.to_string(), "prefix: expected 1 to 96 bytes");
    }
}

#[test]
fn sandboxes_are_filtered_and_sorted() {
    let ids = |pairs: &[_]| pages(&three_sandboxes(), pairs).concat();
    assert_eq!(ids(&[]), ["a", "b", "c"]);
    assert_eq!(ids(&[("window", "90d")]), ["a", "b", "c", "d"]);
    assert_eq!(ids(&[("state", "crashed")]), ["b"]);
    assert_eq!(ids(&[("region", "")]), ["b"]);
    assert_eq!(ids(&[("region", "fra")]), ["a", "c"]);
    assert_eq!(ids(&[("version", "1.1.0")]), ["a"], "the controller version");
    assert_eq!(ids(&[("version", "2.0.0")]), ["a", "c"], "the OpenClaw version");
    assert_eq!(ids(&[("silent", "true")]), ["b", "c"]);
    assert_eq!(ids(&[("silent", "false")]), ["a"]);
    assert_eq!(ids(&[("restarted", "true")]), ["b"]);
    assert_eq!(ids(&[("restarted", "false"), ("silent", "true")]), ["c"]);
    assert_eq!(ids(&[("sort", "-sandbox_id")]), ["c", "b", "a"]);
    assert_eq!(ids(&[("sort", "last_seen")]), ["c", "b", "a"]);
    assert_eq!(ids(&[("sort", "-load")]), ["b", "c", "a"]);
    assert_eq!(ids(&[("sort", "-restarts")]), ["b", "a", "c"]);
    assert_eq!(ids(&[("sort", "uptime")]), ["a", "b", "c"]);
}

#[test]
fn later_pages_show_the_fleet_as_of_the_first_page() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let check_in = |ago| move |sandbox| CheckIn { ago, sandbox, ..CHECK_IN };
    let mut check_ins: Vec<_> = names.map(check_in(10 * MINUTE)).into();
    let before = FleetInMemory::new(&check_ins);
    let with_cursor =
        |cursor: &str| parameters(&[("sort", "-last_seen"), ("limit", "3"), ("cursor", cursor)]);
    let first = SandboxesReport::new(
        &parameters(&[("sort", "-last_seen"), ("limit", "3")]),
        QueryScope { now: ago(5 * MINUTE), only: None },
    )
    .unwrap();
    let page = first.answer(&before.query(&first.sql())).unwrap();
    assert_eq!(
        page.sandboxes.iter().map(|sandbox| &*sandbox.sandbox_id).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );

    // All sandboxes check in again before the second page is requested.
    check_ins.extend(names.map(check_in(MINUTE)));
    let after = FleetInMemory::new(&check_ins);
    let second = SandboxesReport::new(&with_cursor(&page.next.unwrap()), ALL).unwrap();
    let page = second.answer(&after.query(&second.sql())).unwrap();
    assert_eq!(
        page.sandboxes.iter().map(|sandbox| &*sandbox.sandbox_id).collect::<Vec<_>>(),
        ["d", "e", "f"]
    );
    assert_eq!(page.as_of, ago(5 * MINUTE));
    assert_eq!(page.sandboxes[0].last_seen, ago(10 * MINUTE));
}

#[test]
fn a_cursor_is_valid_for_an_hour_and_for_its_sort() {
    let report = |pairs: &[_], now| {
        SandboxesReport::new(&parameters(pairs), QueryScope { now: Time(now), only: None })
    };
    let first = report(&[("limit", "1")], NOW).unwrap();
    let next = first.answer(&three_sandboxes().query(&first.sql())).unwrap().next.unwrap();
    assert!(report(&[("cursor", &next)], NOW + HOUR).is_ok());
    for (pairs, now, expected) in [
        (vec![("cursor", "x")], NOW, "the `next` of an answer"),
        (vec![("cursor", "e30")], NOW, "the `next` of an answer"),
        (vec![("cursor", &*next), ("sort", "load")], NOW, "with the same `sort`"),
        (vec![("cursor", &*next)], NOW + HOUR + 1, "of the last hour"),
        (vec![("cursor", &*next)], NOW - 1, "of the last hour"),
    ] {
        let (name, rule) = report(&pairs, now).unwrap_err().into_parts();
        assert_eq!(name, "cursor");
        assert!(rule.contains(expected), "{rule}");
    }
    let (_, rule) = report(&[("sort", "name")], NOW).unwrap_err().into_parts();
    assert!(rule.contains("sandbox_id, last_seen, restarts, load, disk, uptime"), "{rule}");
}

fn crash(sandbox: &'static str, minutes_ago: u64, restarts: u32) -> CheckIn {
    CheckIn { ago: minutes_ago * MINUTE, sandbox, restarts, exit: "code:1", ..CHECK_IN }
}

#[test]
fn a_crash_loop_is_three_restarts_within_any_hour() {
    let check_ins = [
        // The crash loop is over, and spans the start of an hour.
        crash("over", 150, 1),
        crash("over", 130, 1),
        crash("over", 100, 1),
        crash("over", 0, 0),
        // Ongoing.
        crash("now", 55, 1),
        crash("now", 30, 1),
        crash("now", 5, 2),
        // All restarts in one check-in.
        crash("once", 3, 3),
        // The first and the last restart are an hour apart.
        crash("slow", 61, 1),
        crash("slow", 31, 1),
        crash("slow", 1, 1),
        // A point that represents three check-ins.
        CheckIn { weight: 3, ..crash("sampled", 2, 1) },
        crash("well", 1, 2),
    ];
    let found = incidents(&FleetInMemory::new(&check_ins), &[], ALL);
    let loops: Vec<_> = incidents_of_kind(&found, "crash_loop")
        .into_iter()
        .map(|found| {
            json!([found["severity"], found["sandboxId"], found["restarts"], found["mostInAnHour"]])
        })
        .collect();
    assert_eq!(
        loops,
        [
            json!(["critical", "now", 4, 4]),
            json!(["critical", "once", 3, 3]),
            json!(["critical", "sampled", 3, 3]),
            json!(["warning", "over", 3, 3])
        ]
    );
    assert_eq!(found["totals"]["crashLoops"], 4);
    let first = &found["incidents"][0];
    assert_eq!(first["since"], json!(ago(55 * MINUTE)));
    assert_eq!(first["lastRestart"], json!(ago(5 * MINUTE)));
    assert_eq!(first["lastExitReason"], "code:1");
}

fn from_machine(sandbox: &'static str, machine: &'static str, minutes_ago: u64) -> CheckIn {
    CheckIn { ago: minutes_ago * MINUTE, sandbox, machine, ..CHECK_IN }
}

#[test]
fn a_clone_is_a_machine_that_continues_after_another_started() {
    let check_ins = [
        // The sandbox moved from one machine to another.
        from_machine("moved", "m1", 60),
        from_machine("moved", "m1", 50),
        from_machine("moved", "m2", 45),
        from_machine("moved", "m2", 0),
        // The old machine announces its shutdown after the new one started.
        from_machine("rolled", "m1", 60),
        from_machine("rolled", "m2", 50),
        CheckIn { state: "shutting_down", ..from_machine("rolled", "m1", 49) },
        from_machine("rolled", "m2", 0),
        // Two machines at the same time.
        from_machine("cloned", "m1", 60),
        from_machine("cloned", "m2", 50),
        from_machine("cloned", "m1", 5),
        from_machine("cloned", "m2", 4),
        // Two of three machines, in the past.
        from_machine("was", "m1", 300),
        from_machine("was", "m2", 290),
        from_machine("was", "m1", 280),
        from_machine("was", "m2", 270),
        from_machine("was", "m3", 20),
        from_machine("was", "m3", 0),
        // Three machines, one after the other.
        from_machine("moves", "m1", 30),
        from_machine("moves", "m2", 20),
        from_machine("moves", "m3", 0),
        // Check-ins without a machine id count as one more machine.
        from_machine("unnamed", "m1", 10),
        from_machine("unnamed", "", 5),
        from_machine("unnamed", "m1", 0),
        // A machine that only announces shutdowns also counts, except at the start of the window.
        from_machine("good-byes", "m1", 60),
        CheckIn { state: "shutting_down", ..from_machine("good-byes", "m2", 50) },
        CheckIn { state: "shutting_down", ..from_machine("good-byes", "m2", 40) },
        from_machine("good-byes", "m1", 1),
        CheckIn { state: "shutting_down", ..from_machine("before", "m1", 24 * 60 - 5) },
        from_machine("before", "m2", 24 * 60 - 6),
        from_machine("before", "m2", 0),
    ];
    let found = incidents(&FleetInMemory::new(&check_ins), &[], ALL);
    let clone = |severity, sandbox, since, until, machines: [Option<&str>; 2]| {
        json!({
            "kind": "clone",
            "severity": severity,
            "sandboxId": sandbox,
            "since": ago(since * MINUTE),
            "until": ago(until * MINUTE),
            "machines": 2,
            "machineIds": machines,
        })
    };
    let two = [Some("m1"), Some("m2")];
    assert_eq!(
        found["incidents"],
        json!([
            clone("critical", "cloned", 50, 5, two),
            clone("critical", "unnamed", 5, 5, [Some("m1"), None]),
            clone("info", "was", 290, 280, two),
            clone("info", "good-byes", 50, 40, two),
        ])
    );
    assert_eq!(found["totals"]["clones"], 4);
    assert_eq!((&found["complete"], &found["missing"]), (&json!(true), &json!([])));
}

#[test]
fn silence_is_critical_unless_it_was_announced() {
    let found = incidents(&three_sandboxes(), &[], ALL);
    let listed: Vec<_> = found["incidents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|incident| json!([incident["kind"], incident["severity"], incident["sandboxId"]]))
        .collect();
    assert_eq!(
        listed,
        [
            json!(["crash_loop", "critical", "b"]),
            json!(["silent", "critical", "b"]),
            json!(["silent", "info", "c"]),
        ]
    );
    assert_eq!(found["incidents"][1]["supervisorState"], "crashed");
    assert_eq!(found["incidents"][2]["since"], json!(ago(3 * HOUR)));
    let found = incidents(&three_sandboxes(), &[("limit", "1")], ALL);
    assert_eq!(found["incidents"].as_array().unwrap().len(), 1);
    assert_eq!(found["totals"], json!({ "clones": 0, "crashLoops": 1, "silent": 2 }));
}

/// Silent sandboxes: an earlier check-in, the last one, and whether the silence is on purpose.
fn silent_sandboxes() -> Vec<(CheckIn, CheckIn, bool)> {
    let before = |sandbox| from_machine(sandbox, "m1", 60);
    let last = |sandbox, machine, state| CheckIn { state, ..from_machine(sandbox, machine, 50) };
    vec![
        (before("shut-down"), last("shut-down", "m1", "shutting_down"), true),
        (before("stopped"), last("stopped", "m1", "stopped"), true),
        (before("stopping"), last("stopping", "m1", "stopping"), true),
        (before("running"), last("running", "m1", "running"), false),
        (before("crashed"), last("crashed", "m1", "crashed"), false),
        (before("stranger"), last("stranger", "m2", "shutting_down"), false),
        (before("nobody"), last("nobody", "", "stopped"), false),
        // Two announcements.
        (
            CheckIn { state: "stopping", ..before("twice") },
            last("twice", "m1", "shutting_down"),
            true,
        ),
    ]
}

#[test]
fn only_a_machine_seen_before_can_announce_a_shutdown() {
    let sandboxes = silent_sandboxes();
    let check_ins: Vec<_> =
        sandboxes.iter().flat_map(|(before, last, _)| [before.clone(), last.clone()]).collect();
    let data = FleetInMemory::new(&check_ins);
    let response = incidents(&data, &[], ALL);
    let found: BTreeMap<_, _> = incidents_of_kind(&response, "silent")
        .into_iter()
        .map(|silent| (silent["sandboxId"].as_str().unwrap(), silent["severity"] == "info"))
        .collect();
    let expected: BTreeMap<_, _> =
        sandboxes.iter().map(|(before, _, on_purpose)| (before.sandbox, *on_purpose)).collect();
    assert_eq!(found, expected);
    // The fleet report counts by the same rule.
    let on_purpose = expected.values().filter(|on_purpose| **on_purpose).count() as u64;
    assert_eq!(fleet(&data, &[], ALL).silent_after_shutdown, on_purpose);
}

#[test]
fn the_cookbook_and_the_dashboard_decide_silence_by_the_same_rule() {
    let without_spaces = |text: &str| text.replace("\\n", "").replace([' ', '\n'], "");
    let rule = without_spaces(&kiloclaw_fleet::on_purpose());
    for (file, queries) in [("docs/queries.md", 2), ("grafana/dashboards/fleet.json", 2)] {
        let path = format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"));
        let text = without_spaces(&std::fs::read_to_string(path).unwrap());
        let mut parts = text.split("ASon_purpose,").collect::<Vec<_>>();
        parts.pop();
        assert_eq!(parts.len(), queries, "{file}");
        assert!(parts.iter().all(|before| before.ends_with(&rule)), "{file}");
        // No other rule lists these states.
        assert_eq!(text.matches("'shutting_down'").count(), 2 * queries, "{file}");
    }
}

#[test]
fn sandboxes_that_sampling_makes_look_silent_are_queried_again() {
    // The results of an engine that reads one point in `interval`.
    let first_round = |interval: u32, silent: usize| {
        let rows = ["reporting", "silent"].map(|id| {
            json!({
                "sandboxId": id,
                "lastSeen": NOW - HOUR,
                "supervisorState": "running",
                "machineId": "",
                "flyRegion": "",
                "onPurpose": 0,
            })
        });
        let totals = json!([{
            "checkIns": "9",
            "lastSeen": NOW,
            "sampleInterval": interval.to_string(),
            "silent": silent.to_string(),
        }]);
        [totals, json!(rows[..silent.min(2)]), json!([]), json!([])]
            .map(|data| json!({ "data": data }).to_string())
    };
    let report = || IncidentsReport::new(&parameters(&[]), ALL).unwrap();
    let response = |progress| match progress {
        Progress::Done(Some(json)) => serde_json::from_str::<Value>(&json).unwrap(),
        other => panic!("{other:?}"),
    };
    let unsampled = response(report().read(&first_round(1, 2)).unwrap());
    assert_eq!(unsampled["totals"]["silent"], 2);
    assert_eq!(response(report().read(&first_round(10, 0)).unwrap())["totals"]["silent"], 0);

    let mut report = report();
    let Progress::Query(queries) = report.read(&first_round(10, 5)).unwrap() else { panic!() };
    let [sql] = &queries[..] else { panic!("{queries:?}") };
    assert!(sql.contains("index1 IN ('reporting', 'silent')"), "{sql}");
    // One reported within 15 minutes; the other missed them by a second.
    let fleet = FleetInMemory::new(&[
        CheckIn { ago: 15 * MINUTE, sandbox: "reporting", ..CHECK_IN },
        CheckIn { ago: 15 * MINUTE + 1, sandbox: "silent", ..CHECK_IN },
    ]);
    let found = response(report.read(&[fleet.query(sql)]).unwrap());
    let silent: Vec<_> = incidents_of_kind(&found, "silent")
        .into_iter()
        .map(|silent| &silent["sandboxId"])
        .collect();
    assert_eq!(silent, ["silent"]);
    // The first round counted three more, which are not queried again.
    assert_eq!(found["totals"]["silent"], 4);
    assert_eq!((&found["complete"], &found["missing"]), (&json!(false), &json!(["silent"])));
}

#[test]
fn a_fully_silent_fleet_is_an_incident_of_its_own() {
    let silent = [from_machine("a", "m1", 16), from_machine("b", "m1", 20)];
    let found = incidents(&FleetInMemory::new(&silent), &[], ALL);
    assert_eq!(
        found["incidents"][0],
        json!({ "kind": "no_check_ins", "severity": "critical", "since": ago(16 * MINUTE) })
    );
    assert_eq!(found["totals"]["silent"], 2);
}

/// SQL injection attempts.
const HOSTILE: [&str; 8] = [
    "' OR 1 = 1 --",
    "\\' OR 1 = 1 --",
    "\\",
    "'",
    "a'; SELECT 1",
    "a\0b",
    "a' UNION SELECT 'x",
    "/* ' */",
];

#[test]
fn no_text_is_interpreted_as_sql() {
    let fleet =
        FleetInMemory::new(&HOSTILE.map(|sandbox| CheckIn { sandbox, state: sandbox, ..CHECK_IN }));
    for text in HOSTILE {
        let found = sandbox(&fleet, text).unwrap().sandbox;
        assert_eq!((found.sandbox_id.as_str(), found.check_ins), (text, 1));
        assert_eq!(pages(&fleet, &[("state", text)]), [[text]]);
        for name in ["region", "version"] {
            assert_eq!(pages(&fleet, &[(name, text)]).concat(), [""; 0], "{name}");
        }
        let only = QueryScope { only: Some(text), ..ALL };
        assert_eq!(self::fleet(&fleet, &[], only).sandboxes, 1);
    }
    // Cursors contain ids.
    let mut expected = HOSTILE;
    expected.sort_unstable();
    assert_eq!(pages(&fleet, &[("limit", "1")]).concat(), expected);
    assert_eq!(pages(&fleet, &[("limit", "3"), ("sort", "-last_seen")]).concat(), expected);
    // A separate query contains the ids of clones.
    let clones: Vec<_> = HOSTILE
        .into_iter()
        .flat_map(|sandbox| {
            [
                from_machine(sandbox, "m1", 9),
                from_machine(sandbox, "m2", 8),
                from_machine(sandbox, "m1", 7),
                from_machine(sandbox, "m2", 6),
            ]
        })
        .collect();
    let found = incidents(&FleetInMemory::new(&clones), &[], ALL);
    assert_eq!(found["totals"]["clones"], HOSTILE.len());
}

fn check_ins() -> impl Strategy<Value = Vec<CheckIn>> {
    let texts = (
        prop::sample::select(vec!["a", "b", "c", "d"]),
        prop::sample::select(vec!["", "m1", "m2", "m3"]),
        prop::sample::select(vec!["1.0.0", "1.1.0"]),
        prop::sample::select(vec!["", "2.0.0"]),
        prop::sample::select(vec!["running", "crashed", "shutting_down"]),
        prop::sample::select(vec!["", "fra", "ams"]),
    );
    let numbers = (0..3_u32, 0..8_u32, 0..1_000_u32, 1..4_u32);
    let check_in = (texts, numbers).prop_map(|(texts, (restarts, load, bytes, weight))| {
        let (sandbox, machine, controller, openclaw, state, region) = texts;
        let load = f64::from(load) / 8.0;
        CheckIn {
            sandbox,
            machine,
            controller,
            openclaw,
            state,
            region,
            restarts,
            load,
            bytes,
            weight,
            ..CHECK_IN
        }
    });
    // Times are distinct, so that one check-in is the latest.
    (prop::collection::vec(check_in, 0..40), prop::collection::btree_set(0..10_000_u64, 40))
        .prop_map(|(check_ins, times)| {
            let times = times.into_iter().map(|time| time * 13);
            check_ins
                .into_iter()
                .zip(times)
                .map(|(check_in, ago)| CheckIn { ago, ..check_in })
                .collect()
        })
}

/// `ClickHouse`'s weighted quantile: the first value at which the cumulative weight reaches `level`.
fn quantile(values: &[(f64, u32)], level: f64) -> Option<f64> {
    let mut all: Vec<_> =
        values.iter().flat_map(|(value, weight)| vec![*value; *weight as usize]).collect();
    all.sort_by(f64::total_cmp);
    let position = (level * all.len() as f64).ceil() as usize;
    all.get(position.max(1) - 1).copied()
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> u64 {
    values.collect::<BTreeSet<_>>().len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fleet_report_matches_a_direct_computation(check_ins in check_ins()) {
        let data = FleetInMemory::new(&check_ins);
        let seen: Vec<_> = check_ins.iter().filter(|one| one.ago < 24 * HOUR).collect();
        // Ages ascend: the first check-in of a sandbox is its latest.
        let mut latest = BTreeMap::new();
        for one in &seen {
            latest.entry(one.sandbox).or_insert(*one);
        }
        let sum = |value: fn(&CheckIn) -> u32| -> u64 {
            seen.iter().map(|one| u64::from(value(one)) * u64::from(one.weight)).sum()
        };
        let fleet = fleet(&data, &[], ALL);
        prop_assert_eq!(fleet.sandboxes, latest.len() as u64);
        let reporting = latest.values().filter(|one| one.ago <= 15 * MINUTE).count() as u64;
        prop_assert_eq!((fleet.reporting, fleet.silent), (reporting, latest.len() as u64 - reporting));
        let machines = seen.iter().map(|one| one.machine).filter(|machine| !machine.is_empty());
        prop_assert_eq!(fleet.machines, distinct(machines));
        prop_assert_eq!(fleet.check_ins, sum(|_| 1));
        prop_assert_eq!(fleet.restarts, sum(|one| one.restarts));
        prop_assert_eq!(fleet.bandwidth_bytes_in, sum(|one| one.bytes));
        let loads: Vec<_> = seen.iter().map(|one| (one.load, one.weight)).collect();
        prop_assert_eq!(fleet.load_avg_5m.p50, quantile(&loads, 0.5));
        prop_assert_eq!(fleet.load_avg_5m.p95, quantile(&loads, 0.95));
        for (facets, value) in [
            (&fleet.supervisor_states, (|one| one.state) as fn(&CheckIn) -> &'static str),
            (&fleet.controller_versions, |one| one.controller),
            (&fleet.openclaw_versions, |one| one.openclaw),
            (&fleet.fly_regions, |one| one.region),
        ] {
            let mut expected = BTreeMap::<_, (u64, u64)>::new();
            for one in latest.values() {
                let (sandboxes, reporting) =
                    expected.entry(Some(value(one)).filter(|value| !value.is_empty())).or_default();
                *sandboxes += 1;
                *reporting += u64::from(one.ago <= 15 * MINUTE);
            }
            let found: BTreeMap<_, _> = facets
                .iter()
                .map(|facet| (facet.value.as_deref(), (facet.sandboxes, facet.reporting)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn pages_concatenate_to_the_whole_list(
        check_ins in check_ins(),
        limit in 1..4_usize,
        sort in prop::sample::select(vec![
            "sandbox_id", "-sandbox_id", "last_seen", "-last_seen", "restarts", "-restarts", "load", "-load",
        ]),
    ) {
        let data = FleetInMemory::new(&check_ins);
        let whole = pages(&data, &[("sort", sort)]);
        prop_assert_eq!(whole.len(), 1);
        let limit = limit.to_string();
        let parts = pages(&data, &[("sort", sort), ("limit", &limit)]);
        prop_assert_eq!(parts.concat(), whole.concat());
    }

    #[test]
    fn history_matches_a_direct_computation(check_ins in check_ins()) {
        let data = FleetInMemory::new(&check_ins);
        let report = HistoryReport::new("a", &parameters(&[("step", "1h")]), Time(NOW)).unwrap();
        // The first step starts before the window.
        let from = NOW - 24 * HOUR - (NOW - 24 * HOUR) % HOUR;
        let seen = || check_ins.iter().filter(|one| one.sandbox == "a" && NOW - one.ago >= from);
        let history = report.answer(&data.query(&report.sql())).unwrap();
        prop_assert_eq!(history.is_some(), seen().next().is_some());
        let Some(history) = history else { return Ok(()) };
        prop_assert_eq!(history.steps.len(), 25);
        for step in &history.steps {
            let within = || seen().filter(|one| Time(NOW - one.ago).start_of(HOUR) == step.start);
            let sum = |value: fn(&CheckIn) -> u32| -> u64 {
                within().map(|one| u64::from(value(one) * one.weight)).sum()
            };
            prop_assert_eq!((step.check_ins, step.restarts), (sum(|_| 1), sum(|one| one.restarts)));
            // Loads are multiples of 1/8, so sums are exact.
            let load: f64 = within().map(|one| one.load * f64::from(one.weight)).sum();
            let mean = (step.check_ins > 0).then(|| load / step.check_ins as f64);
            prop_assert_eq!(step.load_avg_5m, mean);
            let latest = within().min_by_key(|one| one.ago).map(|one| one.state);
            prop_assert_eq!(step.supervisor_state.as_deref(), latest);
        }
    }

    #[test]
    fn the_fleets_history_matches_a_direct_computation(check_ins in check_ins()) {
        let data = FleetInMemory::new(&check_ins);
        let history = fleet_history(&data, &[("step", "1h")], ALL);
        let times = history["times"].as_array().unwrap();
        prop_assert_eq!(times.len(), 25);
        for (i, time) in times.iter().enumerate() {
            let start = (NOW - NOW % HOUR) - (24 - i as u64) * HOUR;
            prop_assert_eq!(time, &json!(Time(start)));
            let own: Vec<_> = check_ins.iter()
                .filter(|one| (start..start + HOUR).contains(&(NOW - one.ago)))
                .collect();
            let sandboxes = distinct(own.iter().map(|one| one.sandbox));
            prop_assert_eq!(&history["sandboxes"][i], sandboxes);
            for columns in ["states", "controllerVersions", "openclawVersions"] {
                let columns = history[columns].as_array().unwrap().iter();
                let sum = columns.map(|series| series["sandboxes"][i].as_u64().unwrap()).sum::<u64>();
                prop_assert_eq!(sum, sandboxes);
            }
            for series in history["controllerVersions"].as_array().unwrap() {
                let restarts: u64 = own.iter().filter(|one| series["name"] == one.controller)
                    .map(|one| u64::from(one.restarts * one.weight)).sum();
                prop_assert_eq!(&series["restarts"][i], restarts);
            }
        }
    }

    #[test]
    fn clones_match_a_check_of_every_pair_of_machines(check_ins in check_ins()) {
        let data = FleetInMemory::new(&check_ins);
        let response = incidents(&data, &[("limit", "1000")], ALL);
        let found: BTreeMap<_, _> = incidents_of_kind(&response, "clone").into_iter()
            .map(|clone| {
                let machines: BTreeSet<_> =
                    clone["machineIds"].as_array().unwrap().iter().map(Value::as_str).collect();
                let (since, until) = (clone["since"].clone(), clone["until"].clone());
                (clone["sandboxId"].as_str().unwrap(), (since, until, machines))
            })
            .collect();
        let mut expected = BTreeMap::new();
        for sandbox in ["a", "b", "c", "d"] {
            let mut machines = Vec::new();
            for machine in ["", "m1", "m2", "m3"] {
                let own: Vec<_> = check_ins.iter()
                    .filter(|one| one.sandbox == sandbox && one.machine == machine && one.ago < 24 * HOUR)
                    .collect();
                let Some(first) = own.iter().map(|one| one.ago).max() else { continue };
                let last_seen = own.iter().map(|one| one.ago).min().unwrap();
                let stays_up = |one: &&&CheckIn| one.state != "shutting_down";
                let last = match own.iter().filter(stays_up).map(|one| one.ago).min() {
                    // It announced its shutdown, and sent nothing 15 minutes later.
                    Some(last) if last - last_seen <= 15 * MINUTE => last,
                    // It only announced its shutdown, at the start of the window.
                    None if last_seen >= 24 * HOUR - 15 * MINUTE => continue,
                    _ => last_seen,
                };
                machines.push((machine, first, last));
            }
            let (mut since, mut until, mut together) = (None, None, BTreeSet::new());
            for (one, first, last) in &machines {
                for (other, other_first, other_last) in &machines {
                    // `other` starts while `one` continues.
                    if other_first < first && other_first > last {
                        since = since.max(Some(*other_first));
                        let end = *last.max(other_last);
                        until = Some(until.map_or(end, |until: u64| until.min(end)));
                        together.extend([one, other].map(|id| Some(*id).filter(|id| !id.is_empty())));
                    }
                }
            }
            if let Some((since, until)) = since.zip(until) {
                expected.insert(sandbox, (json!(ago(since)), json!(ago(until)), together));
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn crash_loops_match_a_check_of_every_hour(check_ins in check_ins()) {
        let data = FleetInMemory::new(&check_ins);
        let response = incidents(&data, &[("limit", "1000")], ALL);
        let found: BTreeMap<_, _> = incidents_of_kind(&response, "crash_loop").into_iter()
            .map(|found| (found["sandboxId"].as_str().unwrap(), found["mostInAnHour"].as_u64().unwrap()))
            .collect();
        let mut expected = BTreeMap::new();
        for sandbox in ["a", "b", "c", "d"] {
            let own: Vec<_> = check_ins.iter().filter(|one| one.sandbox == sandbox && one.ago < 24 * HOUR).collect();
            let most = own.iter().map(|end| own.iter()
                .filter(|one| one.ago >= end.ago && one.ago - end.ago < HOUR)
                .map(|one| u64::from(one.restarts * one.weight)).sum::<u64>()).max();
            if let Some(most) = most.filter(|most| *most >= 3) {
                expected.insert(sandbox, most);
            }
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn finds_sandboxes_whose_ids_need_escaping() {
    let ids = ["a'b", "a''b", "a\\b", "a\\'", "b"];
    let data = FleetInMemory::new(&ids.map(|sandbox| CheckIn { sandbox, ..CHECK_IN }));
    for id in ids {
        assert!(sandbox(&data, id).is_some(), "{id}");
    }
    assert!(sandbox(&data, "a\\\\b").is_none());
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    assert_eq!(pages(&data, &[("limit", "1")]).concat(), sorted);
}
