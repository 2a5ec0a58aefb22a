//! Nothing panics, whatever the query.

use std::collections::BTreeMap;

use aesql::{Format, Limits, Point, Query, Table};
use proptest::prelude::*;

fn tables() -> BTreeMap<String, Table> {
    let mut table = Table::new("t");
    for i in 0..50_u8 {
        let text =
            |n: u8| ["", "a", "é%_\\", "12", "2025-01-01 00:00:00"][usize::from(n % 5)].into();
        let double = |n: u8| [0.0, -1.5, f64::NAN, f64::INFINITY, 1e300, 7.0][usize::from(n % 6)];
        let point = Point {
            timestamp_ms: i64::from(i) * 40_000_000_000,
            index1: text(i / 5),
            blobs: vec![text(i), text(i / 3)],
            doubles: vec![double(i), double(i / 7), f64::from(i)],
            sample_interval: u32::from(i % 4),
            ..Point::default()
        };
        table.push(&point).unwrap();
    }
    BTreeMap::from([("t".to_owned(), table)])
}

/// Whatever comes of it, it is an answer in every format, or an error.
fn run(sql: &str) -> bool {
    let limits = Limits { steps: 10_000_000, ..Limits::default() };
    let Ok(query) = Query::parse(sql, &limits) else { return false };
    let Ok(answer) = query.run(&tables(), 1_700_000_000_000) else { return true };
    for format in Format::ALL {
        answer.write(format).unwrap();
    }
    let json = answer.write(Format::Json).unwrap();
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    true
}

/// A value of any type: a column, a literal or a call.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "double1",
            "double2",
            "double3",
            "blob1",
            "blob2",
            "index1",
            "timestamp",
            "dataset",
            "_sample_interval",
            "0",
            "1",
            "-1",
            "255",
            "18446744073709551615",
            "-9223372036854775808",
            "0.5",
            "1e300",
            "-1e300",
            "''",
            "'a'",
            "'é'",
            "'%'",
            "'{}'",
            "'%Y'",
            "'Europe/London'",
            "'2025-01-01 00:00:00'",
            "true",
            "now()",
            "today()",
            "INTERVAL '1' DAY",
            "INTERVAL '-9223372036854775808' YEAR",
            "INTERVAL '9223372036854775807' MONTH",
            "INTERVAL '7' HOUR",
            "count()",
            "NULL",
            "x",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "=",
            "!=",
            "<",
            ">=",
            "AND",
            "OR",
            "LIKE",
            "NOT ILIKE",
        ]);
        let one = prop::sample::select(vec![
            "-",
            "NOT ",
            "round",
            "floor",
            "ceil",
            "log",
            "length",
            "empty",
            "lower",
            "upperUTF8",
            "hex",
            "bin",
            "toUInt8",
            "toUInt32",
            "toDateTime",
            "toUnixTimestamp",
            "toStartOfWeek",
            "toStartOfYear",
            "toStartOfHour",
            "toDayOfWeek",
            "toYYYYMM",
            "bitNot",
            "bitCount",
            "sum",
            "avg",
            "min",
            "max",
            "first_value",
            "last_value",
            "topK",
            "countIf",
            "sum(DISTINCT ",
            "count(DISTINCT ",
        ]);
        let two = prop::sample::select(vec![
            "intDiv",
            "pow",
            "round",
            "bitAnd",
            "bitXor",
            "bitTest",
            "bitShiftLeft",
            "bitShiftRight",
            "bitRotateLeft",
            "bitHammingDistance",
            "startsWith",
            "substring",
            "format",
            "formatDateTime",
            "toStartOfInterval",
            "toDateTime",
            "argMax",
            "argMin",
            "sumIf",
            "topKWeighted",
            "quantileExactWeighted(0.5)",
            "topK(2)",
        ]);
        let three =
            prop::sample::select(vec!["if", "substring", "formatDateTime", "toStartOfInterval"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            (one, inner.clone()).prop_map(|(f, a)| match f.strip_suffix("DISTINCT ") {
                Some(_) => format!("{f}{a})"),
                None => format!("{f}({a})"),
            }),
            (two, inner.clone(), inner.clone()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            (three, inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(f, a, b, c)| format!("{f}({a}, {b}, {c})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} BETWEEN {b} AND {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} IN ({b}, 1, 'a'))")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("position({a} IN {b})")),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let clause = |keyword: &'static str| {
        prop::option::of(value())
            .prop_map(move |v| v.map_or(String::new(), |v| format!(" {keyword} {v}")))
    };
    let from = prop::sample::select(vec!["t", "(SELECT *, double1 AS x FROM t LIMIT 9)", "t"]);
    let tail = prop::sample::select(vec!["", " LIMIT 3", " LIMIT ALL OFFSET 2", " FORMAT JSON"]);
    (
        prop::collection::vec(value(), 1..4),
        from,
        clause("WHERE"),
        clause("GROUP BY"),
        clause("HAVING"),
        clause("ORDER BY"),
        tail,
    )
        .prop_map(|(columns, from, filter, group, having, order, tail)| {
            format!("SELECT {} FROM {from}{filter}{group}{having}{order}{tail}", columns.join(", "))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        run(&text);
    }

    #[test]
    fn no_text_that_begins_well_panics(text in "SELECT [ -~é]{0,120}") {
        run(&text);
    }

    #[test]
    fn no_sequence_of_words_panics(words in prop::collection::vec(prop::sample::select(vec![
        "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "OFFSET", "(", ")", ",", "*",
        "blob1", "double1", "'a'", "1", "AS", "AND", "NOT", "IN", "BETWEEN", "LIKE", "INTERVAL",
        "count", "sum", "if", "DAY", "t", "-", "+", "=", "CASE", "WHEN", "END", "FORMAT", "JSON",
        "UNION", "JOIN", "ON", "WITH", "DISTINCT", "ARRAY", "<", ">", "::", "[", "]", "{", "}", ";",
        "EXTRACT", "SUBSTRING", "FLOOR", "POSITION", "NULL", "IS", "OVER", "ALL", "HAVING", "SHOW",
        "TABLES", "->", "||", ".", "\"", "`", "--", "/*", "@", "?", "$1", "0x1", "1e999",
    ]), 0..40)) {
        run(&format!("SELECT {}", words.join(" ")));
        run(&words.join(" "));
    }

    #[test]
    fn no_query_of_the_grammar_panics(sql in query()) {
        run(&sql);
    }
}

#[test]
fn the_grammar_makes_queries_that_are_valid() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let valid = (0..500).filter(|_| run(&query().new_tree(&mut runner).unwrap().current())).count();
    assert!(valid > 25, "{valid} of 500");
}
