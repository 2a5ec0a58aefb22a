//! Reports with any query parameters, and over any answers that Analytics Engine could give.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use aesql::{Format, Limits, Point, Query, Table};
use base64ct::{Base64UrlUnpadded, Encoding};
use kiloclaw_check_in::data_point::DATASET;
use kiloclaw_fleet::{
    FleetHistoryReport, FleetReport, HistoryReport, IncidentsReport, InvalidParameter, Parameters,
    Progress, QueryScope, Report, SandboxReport, SandboxesReport, Time,
};
use serde_json::Value;

const NOW: u64 = 1_767_323_045;
const DAY: u64 = 86_400;
/// The longest time range of a query: the window, and the step that its first second falls into.
const RETENTION: u64 = (90 + 7) * DAY + 1;

/// Sandbox ids that could break a query. `#n#` is in all texts of a sandbox's points, so that it shows
/// whose data an answer contains.
const IDS: [&str; 6] =
    ["a#0#", "'#1#", "\\#2#", "#3#' OR 1 = 1 --", "#4#'; SELECT 1", "ü\0\n\u{202e}#5#"];

/// Marks points before and after every possible time range: no answer may depend on them.
const NEVER: &str = "#never#";

static FLEET: LazyLock<BTreeMap<String, Table>> = LazyLock::new(fleet);

fn fleet() -> BTreeMap<String, Table> {
    let mut table = Table::new(DATASET);
    let mut push = |id: &str, mark: &str, time: u64, n: u8| {
        let text = |name: &str| format!("{name}{mark}");
        let point = Point {
            timestamp_ms: i64::try_from(time * 1_000).unwrap_or_default(),
            index1: id.to_owned(),
            blobs: vec![
                id.to_owned(),
                text("1.0.0"),
                text("c0ffee"),
                if n.is_multiple_of(2) { String::new() } else { text("2.0.0'") },
                text("d0cb1f2"),
                text(if n == 0 { "crashed" } else { "running" }),
                if n.is_multiple_of(3) { String::new() } else { text("fra\\") },
                text(&format!("m{n}")),
                text("code:1"),
            ],
            doubles: vec![f64::from(n), 7.0, 60.5, f64::from(n) / 4.0, 1e300, 0.0],
            sample_interval: 1 + u32::from(n),
            ..Point::default()
        };
        // These points are far within the limits.
        let _ = table.push(&point);
    };
    push(IDS[0], NEVER, NOW - 200 * DAY, 1);
    for (id, n) in IDS.iter().zip(0..) {
        let mark = format!("#{n}#");
        let points = 0..=u64::from(n % 3);
        for (i, time) in points.map(|i| (i, NOW - 2_000 + 700 * i + u64::from(n))) {
            push(id, &mark, time, (n + u8::try_from(i).unwrap_or_default()) % 4);
        }
    }
    push(IDS[0], NEVER, NOW + DAY, 1);
    BTreeMap::from([(DATASET.to_owned(), table)])
}

/// Runs a query; asserts that the answer contains no point outside every possible time range.
fn run_query(sql: &str) -> String {
    is_bounded(sql);
    let query = Query::parse(sql, &Limits::default());
    let answer = query.and_then(|query| query.run(&*FLEET, 0)?.write(Format::Json));
    match answer {
        Ok(answer) => {
            assert!(!answer.contains(NEVER), "{sql}");
            answer
        }
        Err(error) => panic!("{error}\n{sql}"),
    }
}

/// A query has both time bounds before any text from the request.
fn is_bounded(sql: &str) {
    let times = || {
        let (_, rest) =
            sql.split_once(&format!(" FROM {DATASET} WHERE timestamp > toDateTime("))?;
        let (after, rest) = rest.split_once(") AND timestamp <= toDateTime(")?;
        let (until, _) = rest.split_once(')')?;
        Some((after.parse::<u64>().ok()?, until.parse::<u64>().ok()?))
    };
    let Some((after, until)) = times() else { panic!("not bounded: {sql}") };
    assert_eq!(sql.find(DATASET), sql.find(&format!("{DATASET} WHERE timestamp > ")), "{sql}");
    assert!(after <= until && until <= NOW && until - after <= RETENTION, "{sql}");
}

/// Runs a report over the fleet in memory; returns the reply. With a scope of one sandbox, no answer contains
/// data of another one.
fn reply(report: &mut dyn Report, only: Option<&str>) -> Option<Value> {
    let mut queries = report.queries();
    loop {
        let answers: Vec<_> = queries.iter().map(|sql| run_query(sql)).collect();
        for (id, n) in IDS.iter().zip(0..).filter(|(id, _)| only.is_some_and(|only| only != **id)) {
            assert!(
                !answers.iter().any(|answer| answer.contains(&format!("#{n}#"))),
                "{id}: {answers:?}"
            );
        }
        match report.read(&answers) {
            Ok(Progress::Query(more)) => queries = more,
            Ok(Progress::Done(reply)) => return reply.as_deref().map(object),
            Err(error) => panic!("{error}"),
        }
    }
}

fn object(json: &str) -> Value {
    let value = serde_json::from_str::<Value>(json);
    assert!(value.as_ref().is_ok_and(Value::is_object), "{json}");
    value.unwrap_or_default()
}

/// Lines: the only sandbox in the scope, or nothing; the sandbox in the path; and parameters, as
/// `name=value`. A cursor may be given as its decoded JSON.
pub fn parameters(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let only = lines.next().filter(|only| !only.is_empty());
    let sandbox = lines.next().unwrap_or_default();
    let pairs: Vec<_> = lines.map(pair).collect();
    let parameters = Parameters::new(pairs.clone());
    let scope = QueryScope { now: Time(NOW), only };

    type Made<'a> = Result<Box<dyn Report + 'a>, InvalidParameter>;
    fn made<'a, R: Report + 'a>(report: Result<R, InvalidParameter>) -> Made<'a> {
        report.map(|report| Box::new(report) as Box<dyn Report + 'a>)
    }
    let reports = [
        (only, made(FleetReport::new(&parameters, scope))),
        (only, made(FleetHistoryReport::new(&parameters, scope))),
        (only, made(IncidentsReport::new(&parameters, scope))),
        (Some(sandbox), made(SandboxReport::new(sandbox, &parameters, scope.now))),
        (Some(sandbox), made(HistoryReport::new(sandbox, &parameters, scope.now))),
    ];
    for (only, report) in reports {
        match report {
            Ok(mut report) => drop(reply(&mut *report, only)),
            Err(invalid) => check_refusal(&invalid, &pairs, sandbox),
        }
    }
    match SandboxesReport::new(&parameters, scope) {
        Ok(mut report) => {
            let found = reply(&mut report, only).unwrap_or_default();
            listing(&pairs, scope, &found);
        }
        Err(invalid) => check_refusal(&invalid, &pairs, sandbox),
    }
}

fn pair(line: &str) -> (String, String) {
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    let is_open = name == "cursor" && value.starts_with('{');
    let value =
        if is_open { Base64UrlUnpadded::encode_string(value.as_bytes()) } else { value.to_owned() };
    (name.to_owned(), value)
}

/// A refusal names a parameter of the request or the path, and its length is bounded, whatever the parameter.
fn check_refusal(invalid: &InvalidParameter, pairs: &[(String, String)], sandbox: &str) {
    let (named, expected) = invalid.clone().into_parts();
    let is_there = pairs.iter().any(|(name, _)| name.starts_with(&named));
    let is_path = named == "sandboxId" && !(1..=96).contains(&sandbox.len());
    assert!(is_there || is_path, "{invalid}");
    assert!(named.len() <= 100 && expected.len() <= 200, "{invalid}");
}

/// A filtered list equals the unfiltered list, filtered here.
fn listing(pairs: &[(String, String)], scope: QueryScope<'_>, found: &Value) {
    let get = |name: &str| pairs.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
    if ["cursor", "limit"].into_iter().any(|name| get(name).is_some()) {
        return;
    }
    let spans = ["window", "silent_after"];
    let spans = pairs.iter().filter(|(name, _)| spans.contains(&&**name)).cloned();
    let Ok(mut report) = SandboxesReport::new(&Parameters::new(spans), scope) else {
        panic!("{pairs:?}")
    };
    let all = reply(&mut report, scope.only).unwrap_or_default();
    let text = |sandbox: &Value, name: &str| sandbox[name].as_str().unwrap_or_default().to_owned();
    let is_wanted = |sandbox: &&Value| {
        let equals = |parameter, columns: &[&str]| {
            get(parameter).is_none_or(|value| columns.iter().any(|of| text(sandbox, of) == value))
        };
        let is = |parameter, holds: bool| {
            get(parameter).is_none_or(|wanted| wanted == if holds { "true" } else { "false" })
        };
        get("prefix").is_none_or(|prefix| text(sandbox, "sandboxId").starts_with(prefix))
            && equals("state", &["supervisorState"])
            && equals("region", &["flyRegion"])
            && equals("version", &["controllerVersion", "openclawVersion"])
            && is("silent", sandbox["silent"] == true)
            && is("restarted", sandbox["restarts"] != 0)
    };
    let sandboxes = |of: &Value| of["sandboxes"].as_array().cloned().unwrap_or_default();
    let ids = |of: &mut dyn Iterator<Item = &Value>| -> BTreeSet<_> {
        of.map(|sandbox| text(sandbox, "sandboxId")).collect()
    };
    let wanted = ids(&mut sandboxes(&all).iter().filter(is_wanted));
    assert_eq!(ids(&mut sandboxes(found).iter()), wanted, "{pairs:?}");
}

/// Lines: the answers of Analytics Engine, in order; the last one also answers every follow-up query.
pub fn answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
    let (none, scope) = (Parameters::new([]), QueryScope { now: Time(NOW), only: None });
    let one = QueryScope { only: Some("a"), ..scope };
    let made = (
        FleetReport::new(&none, scope),
        FleetHistoryReport::new(&none, scope),
        SandboxesReport::new(&Parameters::new([pair("sort=-load"), pair("limit=1")]), scope),
        SandboxReport::new("a", &none, scope.now),
        HistoryReport::new("a", &none, scope.now),
        IncidentsReport::new(&none, scope),
        IncidentsReport::new(&none, one),
    );
    let (
        Ok(mut fleet),
        Ok(mut over_time),
        Ok(mut sandboxes),
        Ok(mut sandbox),
        Ok(mut history),
        Ok(mut incidents),
        Ok(mut limited),
    ) = made
    else {
        panic!("valid parameters")
    };
    let reports: [&mut dyn Report; 7] = [
        &mut fleet,
        &mut over_time,
        &mut sandboxes,
        &mut sandbox,
        &mut history,
        &mut incidents,
        &mut limited,
    ];
    for report in reports {
        let mut queries = report.queries();
        let mut answers: Vec<_> = lines.iter().take(queries.len()).cloned().collect();
        loop {
            match report.read(&answers) {
                Ok(Progress::Query(more)) => queries = more,
                Ok(Progress::Done(reply)) => {
                    let is_report = |reply: &String| object(reply)["asOf"].is_string();
                    assert!(reply.as_ref().is_none_or(is_report), "{reply:?}");
                    break;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    break;
                }
            }
            for sql in &queries {
                is_bounded(sql);
                let query = Query::parse(sql, &Limits::default());
                assert!(query.is_ok(), "{query:?}\n{sql}");
            }
            answers = lines.last().into_iter().cycle().take(queries.len()).cloned().collect();
        }
        // A wrong number of answers is a caller's error, but must not panic.
        let _ = report.read(&lines);
    }
    // A page's cursor is valid for the next page.
    let page = sandboxes.answer(lines.first().map(String::as_str).unwrap_or_default());
    if let Some(next) = page.ok().and_then(|page| page.next) {
        let next = [("sort", "-load".to_owned()), ("cursor", next)];
        let pairs = next.map(|(name, value)| (name.to_owned(), value));
        match SandboxesReport::new(&Parameters::new(pairs), scope) {
            Ok(report) => report.queries().iter().for_each(|sql| drop(run_query(sql))),
            Err(invalid) => panic!("{invalid}"),
        }
    }
}
