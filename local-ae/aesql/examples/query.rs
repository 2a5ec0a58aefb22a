//! Runs a query over data points in memory, as a test of a Worker's queries might.
//!
//! `cargo run --example query`

use std::collections::BTreeMap;

use aesql::{Format, Limits, Point, Query, Table};

const SQL: &str = "
SELECT toStartOfHour(timestamp) AS hour, blob1 AS page, SUM(_sample_interval * double1) AS visits
FROM visits
WHERE timestamp > NOW() - INTERVAL '1' DAY
GROUP BY hour, page
ORDER BY hour, visits DESC";

/// 2026-01-02T03:04:05Z
const NOW_MS: i64 = 1_767_323_045_000;

fn main() -> Result<(), aesql::Error> {
    let mut table = Table::new("visits");
    for (minutes_ago, page) in [(1, "/"), (2, "/about"), (3, "/"), (90, "/"), (3_000, "/")] {
        let timestamp_ms = NOW_MS - minutes_ago * 60_000;
        table.push(&Point {
            timestamp_ms,
            blobs: vec![page.into()],
            doubles: vec![1.0],
            ..Point::default()
        })?;
    }
    let tables = BTreeMap::from([("visits".to_owned(), table)]);
    let result = Query::parse(SQL, &Limits::default())?.run(&tables, NOW_MS)?;
    print!("{}", result.write(Format::TabSeparated)?);
    Ok(())
}
