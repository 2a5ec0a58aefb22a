//! The memory limit of a query.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;

use aesql::limits::{MEMORY, TEXT_BYTES};
use aesql::{Error, Format, Kind, Limits, Point, Query, Table};

/// The default limits with a longer query, so that the length limit refuses none.
fn roomy() -> Limits {
    Limits { query_bytes: TEXT_BYTES, ..Limits::default() }
}

/// Repeats `item`; replaces # by the number, counted from 1, and ## by the previous number.
fn repeat(count: usize, item: &str) -> String {
    let number = |i: usize| item.replace("##", &(i - 1).to_string()).replace('#', &i.to_string());
    (1..=count).map(number).collect::<Vec<_>>().join(", ")
}

/// Queries within the length limit that would take gigabytes over 120,000 rows, each in a different part of the
/// engine.
fn greedy() -> Vec<String> {
    let long = "x".repeat(400);
    // A distinct string per row, and a number that needs no operator, since operators are limited.
    let text = format!("format('{{}}{long}#', blob1)");
    let longer = format!("format('{{}}{}', blob1)", "x".repeat(4000));
    let number = "bitAnd(toUInt32(double1), #)";
    let each = |count, item: &str, text: &str| repeat(count, &item.replace("TEXT", text));
    let distinct = "bitXor(toUInt32(double1), #)";
    vec![
        // Columns of the result, and columns of a single call.
        format!("SELECT {} FROM t", each(20, "TEXT", &text)),
        format!(
            "SELECT format('{{}}', {}) FROM t",
            each(
                9,
                "TEXT",
                "format('{0}{0}{0}{0}{0}{0}{0}{0}{0}', format('{0}{0}{0}{0}{0}{0}{0}{0}{0}', blob1))"
            )
        ),
        format!("SELECT {} FROM t", each(20, "if(empty(blob1), '', TEXT)", &text)),
        format!("SELECT blob1 AS a0, {} FROM t", repeat(9, "format('{0}{0}{0}', a##) AS a#")),
        format!("SELECT {}blob1{} FROM t", "bin(".repeat(18), ")".repeat(18)),
        format!("SELECT * FROM (SELECT {} FROM t)", each(20, "TEXT AS a#", &text)),
        // Keys and aggregation states of groups.
        format!("SELECT count() FROM t GROUP BY {}", repeat(300, number)),
        format!("SELECT count() FROM t GROUP BY {}", each(20, "TEXT", &text)),
        format!("SELECT {} FROM t GROUP BY blob1", each(200, "max(TEXT)", number)),
        format!("SELECT {} FROM t GROUP BY blob1", each(20, "argMin(TEXT, blob1)", &text)),
        format!("SELECT {} FROM t", each(160, "quantileWeighted(0.5, TEXT, 1)", distinct)),
        format!("SELECT {} FROM t", each(20, "topK(65536)(TEXT)", &text)),
        format!("SELECT {} FROM t GROUP BY blob1", each(200, "topK(TEXT)", number)),
        format!("SELECT topK(format('{{}}{long}{long}{long}', blob2)) FROM t GROUP BY blob1"),
        format!(
            "SELECT {} FROM (SELECT {} FROM t)",
            repeat(20, "count(DISTINCT a#)"),
            each(20, "TEXT AS a#", &text)
        ),
        // Sort keys.
        format!("SELECT 1 FROM t ORDER BY {} LIMIT 1", repeat(300, number)),
        format!("SELECT 1 FROM t ORDER BY {longer} LIMIT 1"),
        format!("SELECT first_value({longer}) FROM t ORDER BY blob1"),
        // One value of the serialized result.
        format!("SELECT topK(65536)(format('{{}}{}', blob1)) FROM t", "\u{1}".repeat(1000)),
    ]
}

/// Queries whose expressions or names would take gigabytes without any data.
fn greedy_expressions() -> Vec<String> {
    let long = "x".repeat(100_000);
    let uses = repeat(20_000, "a");
    vec![
        format!("SELECT 1 AS a0, {}", repeat(40, "a## + a## AS a#")),
        format!("SELECT 1 AS a0, {}", repeat(40, "format('{}{}', a##, a##) AS a#")),
        format!("SELECT {} FROM (SELECT {} FROM t)", repeat(900, "*"), repeat(90, "*")),
        format!("SELECT {} FROM (SELECT 1 AS {long})", repeat(900, "*")),
        format!("SELECT '{long}' AS a, format('{{}}', {uses})"),
        format!("SELECT blob1 IN ('{long}') AS a, format('{{}}', {uses}) FROM t"),
        format!("SELECT lower('{long}') AS a, format('{{}}', {uses})"),
    ]
}

fn tables(rows: u32) -> BTreeMap<String, Table> {
    let mut table = Table::new("t");
    for row in 0..rows {
        let blobs = vec![row.to_string(), (row % 7).to_string()];
        let doubles = vec![f64::from(row)];
        table.push(&Point { blobs, doubles, ..Point::default() }).unwrap();
    }
    BTreeMap::from([("t".to_owned(), table)])
}

fn run(sql: &str, limits: &Limits, tables: &BTreeMap<String, Table>) -> Result<String, Error> {
    Query::parse(sql, limits)?.run(tables, 0)?.write(Format::Json)
}

fn start(sql: &str) -> String {
    sql.chars().take(100).collect()
}

#[test]
fn refuses_expressions_that_take_gigabytes_without_data() {
    for sql in greedy_expressions() {
        let error = Query::parse(&sql, &roomy()).map(|_| start(&sql)).unwrap_err();
        assert_eq!(error.kind, Kind::Limit, "{error}");
        assert!(error.at.is_some() && error.help.is_some(), "{error}");
    }
}

#[test]
fn statements_of_one_text_share_the_memory_limit() {
    let sql = format!("SELECT 1 AS a0, {};", repeat(13, "a## + a## AS a#"));
    assert!(Query::parse(&sql, &roomy()).is_ok());
    let all = Query::parse_all(&sql.repeat(500), &roomy()).unwrap();
    assert!(all.into_iter().any(|query| query.is_err_and(|error| error.kind == Kind::Limit)));
}

#[test]
fn the_error_has_the_callers_limit_and_advice() {
    let tables = tables(10_000);
    let few = Limits { memory: 100_000, ..roomy() };
    let error = run("SELECT blob1, double1 FROM t", &few, &tables).unwrap_err();
    assert_eq!(error.kind, Kind::Limit);
    assert_eq!(error.message, "the query needs more than 100000 bytes of memory");
    assert!(error.help.unwrap().contains("LIMIT"));
    assert!(run("SELECT blob1, double1 FROM t LIMIT 100", &few, &tables).is_ok());
    let error = run("SELECT 1 AS a", &Limits { memory: 100, ..few }, &tables).unwrap_err();
    assert_eq!(error.kind, Kind::Limit, "{error}");
}

#[test]
fn each_run_has_the_whole_memory_limit() {
    let tables = tables(10_000);
    let limits = Limits { memory: 3_000_000, ..roomy() };
    let query = Query::parse("SELECT blob1, double1 FROM t ORDER BY blob1", &limits).unwrap();
    let answers: Vec<_> = (0..5).map(|_| query.run(&tables, 0).unwrap()).collect();
    for answer in &answers {
        for _ in 0..5 {
            assert!(answer.write(Format::JsonEachRow).unwrap().len() > 200_000);
        }
    }
}

#[test]
fn serializing_an_answer_counts_towards_the_limit() {
    let long = "x".repeat(100_000);
    let some = Limits { memory: 10_000_000, ..roomy() };
    for sql in [format!("SELECT '{long}' AS a FROM t"), format!("SELECT 1 AS {long} FROM t")] {
        let answer = Query::parse(&sql, &some).unwrap().run(&tables(200), 0).unwrap();
        for format in [Format::Json, Format::JsonEachRow] {
            assert_eq!(answer.write(format).unwrap_err().kind, Kind::Limit);
        }
    }
}

#[test]
fn a_single_string_has_its_own_limit() {
    let chain = repeat(9, "format('{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}', a##) AS a#");
    let error = run(&format!("SELECT 'x' AS a0, {chain}"), &roomy(), &tables(0));
    assert!(error.unwrap_err().message.contains("string of more than 4194304 bytes"));
    let blobs = vec!["x".repeat(5 << 20)];
    assert!(Table::new("t").push(&Point { blobs, ..Point::default() }).is_err());
}

/// Limits the program's address space to twice the memory limit, so that it aborts if it needs more.
#[cfg(all(feature = "cli", target_os = "linux"))]
#[test]
fn a_process_stays_within_twice_the_limit() {
    use std::fs;
    use std::process::Command;
    use std::thread;

    /// For the program, its data and the parser, which takes this much for 256 KiB of commas.
    const BASELINE: usize = 128 << 20;
    let folder = env!("CARGO_TARGET_TMPDIR");
    let data = format!("{folder}/memory.ndjson");
    let point = |i: u32| {
        let few = i % 7;
        format!(
            "{{\"timestamp\":{i},\"dataset\":\"t\",\"blob1\":\"{i}\",\"blob2\":\"{few}\",\
             \"double1\":{i}}}\n"
        )
    };
    // More than one segment.
    fs::write(&data, (0..120_000).map(point).collect::<String>()).unwrap();
    let kib = (2 * MEMORY + BASELINE) / 1024;
    let check = |i: usize, sql: &str| {
        let file = format!("{folder}/memory-{i}.sql");
        fs::write(&file, sql).unwrap();
        let out = Command::new("sh")
            .args(["-c", "ulimit -v $1 && shift && exec \"$@\"", "sh", &kib.to_string()])
            .args([env!("CARGO_BIN_EXE_aesql"), "query", &file, "--data", &data])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{}: {error}", start(sql));
        assert!(error.contains("more than 256 MiB of memory"), "{}: {error}", start(sql));
    };
    let queries = greedy();
    let (queries, check) = (&queries, &check);
    thread::scope(|scope| {
        for half in 0..2 {
            let own = queries.iter().enumerate().filter(move |(i, _)| i % 2 == half);
            scope.spawn(move || own.for_each(|(i, sql)| check(i, sql)));
        }
    });
}
