//! Measures memory per point and query times for a million data points.
//!
//! `cargo run --release -p aesql --example million`

use std::collections::BTreeMap;
use std::time::Instant;

use aesql::{Limits, Point, Query, Table};

const POINTS: i64 = 1_000_000;
const SANDBOXES: i64 = 10_000;
/// Five minutes between the check-ins of one sandbox.
const STEP_MS: i64 = 300_000 / SANDBOXES;
const START_MS: i64 = 1_700_000_000_000;

const QUERIES: &[(&str, &str)] = &[
    (
        "fleet: latest state of each sandbox",
        "SELECT index1, argMax(blob6, timestamp) AS state, argMax(blob2, timestamp) AS version, \
         max(timestamp) AS seen, argMax(double4, timestamp) AS load FROM fleet \
         WHERE timestamp > NOW() - INTERVAL '1' DAY GROUP BY index1",
    ),
    ("count", "SELECT count() FROM fleet"),
    (
        "restarts by hour",
        "SELECT toStartOfInterval(timestamp, INTERVAL '1' HOUR) AS hour, \
         sum(_sample_interval * double1) AS restarts FROM fleet GROUP BY hour ORDER BY hour",
    ),
    (
        "p95 by region",
        "SELECT blob7, quantileExactWeighted(0.95)(double4, _sample_interval) AS p FROM fleet \
         GROUP BY blob7",
    ),
    ("newest rows", "SELECT * FROM fleet ORDER BY timestamp DESC LIMIT 10"),
    ("pattern", "SELECT count() FROM fleet WHERE blob8 LIKE '%77%'"),
    (
        "strings",
        "SELECT lower(blob8) AS m, count() AS n FROM fleet GROUP BY m ORDER BY n, m LIMIT 10",
    ),
];

fn point(i: i64) -> Point {
    let sandbox = i % SANDBOXES;
    let whole = |n: i64| f64::from(i32::try_from(n).unwrap_or_default());
    let states = ["running", "running", "running", "stopped", "crashed"];
    let regions = ["ams", "dfw", "sin", "gru", "nrt"];
    let pick = |of: &[&str], n: i64| -> String {
        of.iter()
            .cycle()
            .nth(usize::try_from(n).unwrap_or_default())
            .copied()
            .unwrap_or_default()
            .into()
    };
    Point {
        timestamp_ms: START_MS + i * STEP_MS,
        dataset: "fleet".into(),
        index1: format!("sandbox-{sandbox:05}"),
        blobs: vec![
            format!("sandbox-{sandbox:05}"),
            format!("1.{}.0", sandbox % 7),
            format!("{:07x}", sandbox % 7 * 7919),
            format!("2026.{}.1", sandbox % 5),
            format!("{:07x}", sandbox % 5 * 104_729),
            pick(&states, i * 7 % 5),
            pick(&regions, sandbox % 5),
            format!("{:014x}", sandbox * 2_654_435_761),
            if i % 11 == 0 { "signal:SIGKILL".into() } else { String::new() },
        ],
        doubles: vec![
            whole(i % 3),
            whole(i % 100),
            whole(i / 10),
            whole(i % 640) / 100.0,
            whole(i * 31 % 1_000_003),
            whole(i * 17 % 1_000_003),
        ],
        sample_interval: 1,
    }
}

fn main() -> Result<(), aesql::Error> {
    let mut table = Table::new("fleet");
    let start = Instant::now();
    for i in 0..POINTS {
        table.push(&point(i))?;
    }
    println!("{POINTS} points written in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    println!("{} bytes a point", table.bytes() / table.len());
    let tables = BTreeMap::from([("fleet".to_owned(), table)]);
    // All points are within the day before this time.
    let now = START_MS + POINTS * STEP_MS;
    for (name, sql) in QUERIES {
        let query = Query::parse(sql, &Limits::default())?;
        let start = Instant::now();
        let result = query.run(&tables, now)?;
        let ran = start.elapsed().as_secs_f64() * 1e3;
        let bytes = result.write(query.format())?.len();
        println!("{ran:7.0} ms  {name}: {} rows, {bytes} bytes", result.rows());
    }
    Ok(())
}
