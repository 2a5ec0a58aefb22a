//! The SQL dialect: any text is a query or an error at a place in the text; any query has a result or an error.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aesql::{Error, Format, Limits, Query, QueryResult, Table};
use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

#[path = "../../local-ae/aesql/tests/grammar/mod.rs"]
pub mod grammar;

static TABLES: LazyLock<BTreeMap<String, Table>> = LazyLock::new(grammar::tables);

thread_local! {
    static QUERY: BoxedStrategy<String> = grammar::query().boxed();
}

/// 2023-11-14 22:13:20.
const NOW_MS: i64 = 1_700_000_000_000;

/// Below the defaults, so that slow or large queries end soon.
const LIMITS: Limits = Limits {
    query_bytes: aesql::limits::QUERY_BYTES,
    rows: 10_000,
    steps: 10_000_000,
    memory: 32 << 20,
};

/// Any text: an error is at a place in the text.
pub fn parse(data: &[u8]) {
    let sql = String::from_utf8_lossy(data);
    match Query::parse_all(&sql, &LIMITS) {
        Ok(queries) => queries.iter().filter_map(|query| query.as_ref().err()).for_each(|error| {
            is_inside(&sql, error);
        }),
        Err(error) => is_inside(&sql, &error),
    }
}

/// Any text: a query has a result in every format, or an error.
pub fn evaluate(data: &[u8]) {
    let sql = String::from_utf8_lossy(data);
    let Ok(queries) = Query::parse_all(&sql, &LIMITS) else { return };
    for query in queries.into_iter().flatten() {
        match query.run(&*TABLES, NOW_MS) {
            Ok(result) => is_written(&result),
            Err(error) => is_inside(&sql, &error),
        }
    }
}

/// A query that the grammar of aesql's tests generates, with the first 32 bytes as the seed.
pub fn generate(data: &[u8]) {
    let mut seed = [0; 32];
    seed.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    if let Ok(sql) = QUERY.with(|query| query.new_tree(&mut runner)) {
        parse(sql.current().as_bytes());
        evaluate(sql.current().as_bytes());
    }
}

/// A place is a character of the text, or the end of a line.
fn is_inside(sql: &str, error: &Error) {
    assert!(!error.message.is_empty());
    let Some(at) = error.at else { return };
    // The text after the last newline is a line, too.
    let line = usize::try_from(at.line - 1).ok().and_then(|line| sql.split('\n').nth(line));
    let length = line.map(|line| line.chars().count() as u64);
    assert!(length.is_some_and(|length| (1..=length + 1).contains(&at.column)), "{error}");
}

/// Every format has every row, and JSON is valid.
fn is_written(result: &QueryResult) {
    let rows = result.rows();
    let json = |text: &str| serde_json::from_str::<Value>(text);
    if let Ok(text) = result.write(Format::Json) {
        let value = json(&text);
        assert!(value.is_ok(), "{text}");
        let Ok(value) = value else { return };
        let number = |name| value.get(name).and_then(Value::as_u64);
        assert_eq!(number("rows"), Some(rows as u64));
        assert!(number("rows_before_limit_at_least") >= Some(rows as u64));
        assert_eq!(value.get("data").and_then(Value::as_array).map(Vec::len), Some(rows));
    }
    if let Ok(text) = result.write(Format::JsonEachRow) {
        assert_eq!(text.lines().count(), rows);
        assert!(text.lines().all(|line| json(line).is_ok_and(|row| row.is_object())), "{text}");
    }
    if let Ok(text) = result.write(Format::TabSeparated) {
        assert_eq!(text.split_terminator('\n').count(), rows, "{text}");
        let mut tabs = text.split_terminator('\n').map(|line| line.matches('\t').count());
        let first = tabs.next();
        assert!(tabs.all(|tabs| Some(tabs) == first), "{text}");
    }
}
