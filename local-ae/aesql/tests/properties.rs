//! Property tests: no query makes the library panic.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

#[expect(unreachable_pub, reason = "public to the fuzzers")]
mod grammar;

use aesql::{Format, Limits, Query};
use proptest::prelude::*;

use self::grammar::{query, tables};

/// Runs a query, which must fail or serialize in every format. Returns whether the query parses.
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

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // The environment variable PROPTEST_CASES sets the number of cases.
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        run(&text);
    }

    #[test]
    fn no_text_after_select_panics(text in "SELECT [ -~é]{0,120}") {
        run(&text);
    }

    #[test]
    fn no_sequence_of_tokens_panics(words in prop::collection::vec(prop::sample::select(vec![
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
fn more_than_half_of_the_generated_queries_are_valid() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let valid = (0..500).filter(|_| run(&query().new_tree(&mut runner).unwrap().current())).count();
    assert!(valid > 250, "{valid} of 500");
}
