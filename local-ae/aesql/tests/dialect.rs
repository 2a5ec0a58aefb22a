//! The dialect: the queries that aesql answers, and those that it refuses, with its advice.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is a failed test"
)]

use std::collections::BTreeMap;

use aesql::{Error, Format, Kind, Limits, Point, Query, Table};

/// 2025-10-29 12:00:00.
const NOW_MS: i64 = 1_761_739_200_000;

/// Check-ins of three sandboxes, oldest first.
fn fleet() -> BTreeMap<String, Table> {
    let mut table = Table::new("fleet");
    for (hours, sandbox, state, region, restarts, load) in [
        (30, "s1", "starting", "ams", 0.0, 0.5),
        (3, "s1", "running", "ams", 1.0, 1.5),
        (2, "s2", "crashed", "dfw", 4.0, 2.5),
        (2, "s3", "stopped", "sin", 0.0, 0.25),
        (1, "s1", "running", "ams", 0.0, 3.5),
        (1, "s2", "running", "dfw", 2.0, 1.0),
    ] {
        let mut blobs = vec![String::new(); 7];
        blobs[0] = sandbox.into();
        blobs[5] = state.into();
        blobs[6] = region.into();
        let point = Point {
            timestamp_ms: NOW_MS - hours * 3_600_000,
            index1: sandbox.into(),
            blobs,
            doubles: vec![restarts, 0.0, 0.0, load],
            sample_interval: if sandbox == "s3" { 10 } else { 1 },
            ..Point::default()
        };
        table.push(&point).unwrap();
    }
    BTreeMap::from([("fleet".to_owned(), table)])
}

fn parse(sql: &str) -> Result<Query, Error> {
    Query::parse(sql, &Limits::default())
}

fn answer(sql: &str, format: Format) -> Result<String, Error> {
    parse(sql)?.run(&fleet(), NOW_MS)?.write(format)
}

/// The result as `TabSeparated`.
fn rows(sql: &str) -> String {
    answer(sql, Format::TabSeparated).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[test]
fn writes_the_three_formats_as_clickhouse_does() {
    let sql = "SELECT index1 AS s, count() AS n, max(timestamp) AS seen, sum(double4) AS l, \
               topK(2)(blob6) AS top FROM fleet WHERE index1 = 's2' GROUP BY s";
    assert_eq!(
        answer(sql, Format::Json).unwrap(),
        concat!(
            r#"{"meta":[{"name":"s","type":"String"},{"name":"n","type":"UInt64"},"#,
            r#"{"name":"seen","type":"DateTime"},{"name":"l","type":"Float64"},"#,
            r#"{"name":"top","type":"Array(String)"}],"#,
            r#""data":[{"s":"s2","n":"2","seen":"2025-10-29 11:00:00","l":3.5,"#,
            r#""top":["crashed","running"]}],"rows":1,"rows_before_limit_at_least":1}"#,
        )
    );
    assert_eq!(
        answer(sql, Format::JsonEachRow).unwrap(),
        "{\"s\":\"s2\",\"n\":\"2\",\"seen\":\"2025-10-29 11:00:00\",\"l\":3.5,\
         \"top\":[\"crashed\",\"running\"]}\n"
    );
    assert_eq!(
        answer(sql, Format::TabSeparated).unwrap(),
        "s2\t2\t2025-10-29 11:00:00\t3.5\t['crashed','running']\n"
    );
}

#[test]
fn escapes_characters_that_would_break_a_line() {
    let mut table = Table::new("fleet");
    table.push(&Point { blobs: vec!["a\tb\nc\\d".into()], ..Point::default() }).unwrap();
    let tables = BTreeMap::from([("fleet".to_owned(), table)]);
    let run = |sql, format| parse(sql)?.run(&tables, NOW_MS)?.write(format);
    assert_eq!(run("SELECT blob1 FROM fleet", Format::TabSeparated), Ok("a\\tb\\nc\\\\d\n".into()));
    assert_eq!(
        run("SELECT 'q\"\n' AS \"a\"\"b\"", Format::JsonEachRow),
        Ok("{\"a\\\"b\":\"q\\\"\\n\"}\n".into())
    );
}

#[test]
fn nan_and_infinities_are_null_in_json() {
    let json = answer("SELECT 0 / 0 AS a, 1 / 0 AS b, -0.0 AS c", Format::JsonEachRow).unwrap();
    assert_eq!(json, "{\"a\":null,\"b\":null,\"c\":-0}\n");
    assert_eq!(rows("SELECT 0 / 0, 1 / 0, -1 / 0"), "nan\tinf\t-inf\n");
}

#[test]
fn answers_typical_queries() {
    for (sql, expected) in [
        ("SHOW TABLES", "fleet\n"),
        ("SHOW TIMEZONE FORMAT TabSeparated", "Etc/UTC\n"),
        ("SELECT 1 FORMAT TabSeparated", "1\n"),
        ("SELECT 1 AS format FORMAT TabSeparated", "1\n"),
        ("SELECT blob1 AS format FROM fleet ORDER BY format LIMIT 0 FORMAT TabSeparated", ""),
        (
            "SELECT index1 AS sandbox, argMax(blob6, timestamp) AS state, max(timestamp) AS seen \
             FROM fleet WHERE timestamp > now() - INTERVAL '1' DAY GROUP BY sandbox \
             ORDER BY seen DESC, sandbox LIMIT 2",
            "s1\trunning\t2025-10-29 11:00:00\ns2\trunning\t2025-10-29 11:00:00\n",
        ),
        (
            "SELECT state, count() AS n FROM (SELECT index1, argMax(blob6, timestamp) AS state \
             FROM fleet GROUP BY index1) GROUP BY state ORDER BY n DESC, state",
            "running\t2\nstopped\t1\n",
        ),
        (
            "SELECT toStartOfInterval(timestamp, INTERVAL '1' HOUR) AS hour, \
             sum(_sample_interval * double1) AS restarts FROM fleet \
             WHERE timestamp > NOW() - INTERVAL '3' HOUR GROUP BY hour ORDER BY hour ASC",
            "2025-10-29 10:00:00\t4\n2025-10-29 11:00:00\t2\n",
        ),
        (
            "SELECT blob7 AS region, quantileExactWeighted(0.95)(double4, _sample_interval) AS p95, \
             SUM(_sample_interval) AS n FROM fleet GROUP BY region ORDER BY region",
            "ams\t3.5\t3\ndfw\t2.5\t2\nsin\t0.25\t10\n",
        ),
        ("SELECT quantileWeighted(0.5, double4, _sample_interval) AS p50 FROM fleet", "0.25\n"),
        (
            "SELECT index1, max(timestamp) AS seen FROM fleet GROUP BY index1 \
             HAVING seen < NOW() - INTERVAL '90' MINUTE",
            "s3\t2025-10-29 10:00:00\n",
        ),
        (
            "SELECT index1, SUM(_sample_interval * double4) / SUM(_sample_interval) AS load \
             FROM fleet GROUP BY index1 ORDER BY index1 LIMIT 1 OFFSET 1",
            "s2\t1.75\n",
        ),
        (
            "SELECT countIf(double1 > 0) AS c, sumIf(double1, blob6 = 'crashed') AS s, \
             avgIf(double4, blob7 IN ('ams', 'dfw')) AS a, count(DISTINCT index1) AS d FROM fleet",
            "3\t4\t1.8\t3\n",
        ),
        ("SELECT count() FROM fleet WHERE blob6 NOT LIKE 'sto%' AND blob7 ILIKE 'A%'", "3\n"),
        ("SELECT DATASET FROM (SELECT dataset AS DATASET FROM fleet LIMIT 1)", "fleet\n"),
        ("SELECT first_value(blob6) FROM fleet ORDER BY timestamp ASC", "starting\n"),
        ("SELECT last_value(blob6) FROM fleet ORDER BY timestamp DESC", "starting\n"),
    ] {
        assert_eq!(rows(sql), expected, "{sql}");
    }
}

#[test]
fn answers_the_examples_of_the_reference() {
    for (sql, expected) in [
        ("SELECT toUInt8(3.7), bitAnd(1, 3), bitTest(3, 1), bitShiftLeft(128, 1)", "3\t1\t1\t0\n"),
        ("SELECT bitRotateLeft(128, 1), bitRotateRight(1, 1), bitXor(3, 3)", "1\t128\t0\n"),
        ("SELECT round(5.5), round(3.14, 1), floor(3.14, 1), ceil(3.14, 1)", "6\t3.1\t3.1\t3.2\n"),
        ("SELECT substring('hello world', 6), position(':' IN 'hello: world')", " world\t6\n"),
        ("SELECT length('héé'), lower('ÀB'), lowerUTF8('ÀB')", "3\tÀb\tàb\n"),
        ("SELECT toDayOfWeek(toDateTime('2025-11-02 00:00:00'))", "7\n"),
        ("SELECT extract(SECOND from toDateTime('2022-06-06 11:30:15'))", "15\n"),
        ("SELECT toStartOfWeek(toDateTime('2025-10-29 00:00:00'))", "2025-10-27\n"),
        (
            "SELECT toStartOfFifteenMinutes(toDateTime('2025-10-27 16:55:25'))",
            "2025-10-27 16:45:00\n",
        ),
        ("SELECT toYYYYMM(toDateTime('2025-10-27 16:55:25'))", "202510\n"),
        (
            "SELECT formatDateTime(toDateTime('2022-12-01 16:17:00', 'America/New_York'), '%F %T', \
             'Etc/UTC')",
            "2022-12-01 21:17:00\n",
        ),
        ("SELECT bin(1), hex('abc'), bin('abc')", "00000001\t616263\t011000010110001001100011\n"),
        ("SELECT count() FROM fleet WHERE bitTest(double1, 2)", "1\n"),
        ("SELECT count() FROM fleet WHERE bitCount(double1) > 5", "1\n"),
        (
            "SELECT if(double4 <= 1, 'FREEZING', 'NOT FREEZING') AS d FROM fleet LIMIT 1",
            "FREEZING\n",
        ),
        ("SELECT topK(double1) FROM fleet", "[0,1,2,4]\n"),
        ("SELECT 'Hello Workers Analytics Engine' AS message", "Hello Workers Analytics Engine\n"),
    ] {
        assert_eq!(rows(sql), expected, "{sql}");
    }
}

#[test]
fn every_example_query_is_answered_or_refused_as_its_name_says() {
    #[derive(serde::Deserialize)]
    struct Example {
        name: String,
        sql: String,
    }
    let examples: Vec<Example> =
        serde_json::from_str(include_str!("example-queries.json")).unwrap();
    for Example { name, sql } in examples {
        let answer = answer(&sql.replace("kiloclaw_controller_telemetry", "fleet"), Format::Json);
        match answer {
            Ok(answer) => {
                assert!(!name.ends_with("_reject"), "{name}");
                assert!(answer.contains("\"rows_before_limit_at_least\""), "{name}: {answer}");
            }
            Err(error) => {
                assert!(name.ends_with("_reject"), "{name}: {error}");
                assert!(error.help.is_some(), "{name}");
            }
        }
    }
}

#[test]
fn refuses_undocumented_constructs_and_names_the_documented_alternative() {
    for (sql, what, help) in [
        ("SELECT DISTINCT blob1 FROM fleet", "SELECT DISTINCT", "GROUP BY x"),
        (
            "SELECT CASE WHEN double1 > 1 THEN 1 ELSE 0 END FROM fleet",
            "CASE",
            "if(condition, a, b)",
        ),
        ("SELECT NULLIF(double1, 0) FROM fleet", "NULLIF", "if(b = 0, 0.0, a / b)"),
        ("SELECT uniq(blob1) FROM fleet", "unknown function call: UNIQ", "count(DISTINCT x)"),
        ("SELECT count(double1) FROM fleet", "COUNT() function must", "count(DISTINCT x)"),
        ("SELECT count(*) FROM fleet", "COUNT() function must", "count()"),
        ("SELECT a.blob1 FROM fleet JOIN fleet ON 1 = 1", "JOIN", "one table"),
        ("SELECT 1 FROM fleet, other", "a second table", "one table"),
        ("SELECT 1 UNION ALL SELECT 2", "UNION", "a request of its own"),
        ("SELECT 1 FROM fleet AS f", "an alias of a table", "leave it out"),
        ("SELECT fleet.blob1 FROM fleet", "a table's name", "write blob1 alone"),
        ("WITH x AS (SELECT 1) SELECT 1", "WITH", "SELECT … FROM (SELECT …)"),
        ("INSERT INTO fleet VALUES (1)", "INSERT", "SELECT or SHOW"),
        ("SHOW DATABASES", "SHOW", "SHOW TABLES"),
        ("SELECT blob1 FROM fleet GROUP BY 1", "a column's number", "name or alias"),
        ("SELECT blob1 FROM fleet ORDER BY 1", "a column's number", "name or alias"),
        ("SELECT blob1 FROM fleet LIMIT 1, 2", "LIMIT m, n", "OFFSET m"),
        ("SELECT blob1 FROM fleet LIMIT 1 BY blob1", "LIMIT BY", "argMax()"),
        ("SELECT blob1 FROM fleet FORMAT CSV", "FORMAT CSV", "JSON, JSONEachRow, TabSeparated"),
        ("SELECT count() FROM fleet GROUP BY blob1 WITH TOTALS", "a modifier", "each total"),
        ("SELECT blob1 FROM fleet PREWHERE 1", "PREWHERE", "WHERE"),
        ("SELECT blob1 FROM fleet SETTINGS max_threads = 1", "SETTINGS", "leave it out"),
        ("SELECT blob1 FROM fleet FINAL", "alias of a table", "leave it out"),
        ("SELECT CAST(double1 AS String) FROM fleet", "CAST", "toUInt32(x)"),
        ("SELECT double1::UInt8 FROM fleet", "::", "toUInt32(x)"),
        ("SELECT blob1 || 'x' FROM fleet", "||", "format('{}{}', a, b)"),
        ("SELECT [1, 2]", "[", "no arrays"),
        ("SELECT NULL", "NULL", "'' or 0"),
        ("SELECT count() FROM fleet WHERE blob1 IS NOT NULL", "IS NULL", "empty(x)"),
        ("SELECT count() FROM fleet WHERE blob1 IN (SELECT blob1 FROM fleet)", "IN with", "list"),
        ("SELECT count() FROM fleet WHERE count() > 1", "count() in WHERE", "HAVING"),
        ("SELECT sum(count()) FROM fleet", "in an aggregate", "subquery"),
        ("SELECT blob1, count() FROM fleet", "blob1 is neither", "GROUP BY"),
        ("SELECT * FROM fleet GROUP BY blob1", "* has columns", "name the columns"),
        ("SELECT blob1 FROM fleet HAVING blob1 = 'a'", "HAVING without", "WHERE"),
        ("SELECT sum(double1) OVER () FROM fleet", "OVER", "argMax()"),
        ("SELECT now() - INTERVAL 1 DAY", "INTERVAL takes", "INTERVAL '1' DAY"),
        ("SELECT now() - INTERVAL '1' WEEK", "INTERVAL in WEEK", "YEAR"),
        ("SELECT quantile(0.5)(double1) FROM fleet", "QUANTILE", "quantileExactWeighted"),
        ("SELECT median(double1) FROM fleet", "MEDIAN", "quantileExactWeighted"),
        ("SELECT coalesce(blob1, 'x') FROM fleet", "COALESCE", "no NULL"),
        ("SELECT tosrting(blob1) FROM fleet", "TOSRTING", "README"),
        ("SELECT toStartOfHuor(timestamp) FROM fleet", "TOSTARTOFHUOR", "toStartOfHour?"),
        ("SELECT blob21 FROM fleet", "blob21", "did you mean blob"),
        ("SELECT position('a', 'b')", "position(a, b)", "needle IN haystack"),
        ("SELECT count() FROM fleet WHERE blob1 LIKE 'a' ESCAPE '!'", "ESCAPE", "percent"),
        ("SELECT toDateTime(1, 'Nowhere')", "Nowhere", ""),
        ("SELECT sum(timestamp) FROM fleet", "takes a number", "sum(column)"),
        ("SELECT double1 + blob1 FROM fleet", "does not take Float64 and String", ""),
        ("SELECT double1 FROM fleet WHERE double1", "WHERE takes a condition", "x != 0"),
        ("SELECT 1; SELECT 2", "more than one", "a request of its own"),
        ("SELECT 1 AS a, 2 AS a", "two columns a", "name of its own"),
    ] {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.kind, Kind::Refused, "{sql}: {error}");
        assert!(error.message.contains(what), "{sql}: {}", error.message);
        let given = error.help.unwrap_or_default();
        assert!(given.contains(help), "{sql}: {given}");
    }
}

#[test]
fn refuses_what_production_refuses_in_its_words() {
    let long = format!("SELECT '{}'", "x".repeat(10_000));
    let date = "cannot combine the DateTime and String types with the";
    let types =
        "the 2nd and 3rd arguments to IF() function must have the same type but instead had";
    for (sql, text) in [
        (
            "SELECT sum(if(blob1 = 'a', _sample_interval, 0.0)) FROM t",
            format!("{types} Integer and Double"),
        ),
        ("SELECT if(double1 > 0, 1 / double1, 0) FROM t", format!("{types} Double and Integer")),
        ("SELECT if(double1 > 0, 1, true) FROM t", format!("{types} Integer and Boolean")),
        (
            "SELECT if(double1 > 0, if(double1 > 2, 1, 2), 0.5) FROM t",
            format!("{types} Integer and Double"),
        ),
        (
            "SELECT if(avg(double1) > 0, avg(double1), 1) FROM t",
            format!("{types} Double and Integer"),
        ),
        ("SELECT 1 FROM t WHERE timestamp >= '2026-08-11 02:54:00'", format!("{date} >= operator")),
        (
            "SELECT 1 FROM t WHERE timestamp NOT BETWEEN '2026-08-11' AND now()",
            format!("{date} < operator"),
        ),
        (
            "SELECT 1 FROM t WHERE timestamp IN ('2026-08-11 02:54:00')",
            format!("{date} IN operator"),
        ),
        (
            "SELECT 1 FROM t WHERE '2026-08-11' < timestamp",
            "cannot combine the String and DateTime types with the < operator".into(),
        ),
        (
            "SELECT sum(_sample_interval * (blob2 = 'x')) FROM t",
            "cannot combine the Integer and Boolean types with the * operator".into(),
        ),
        (
            "SELECT max(blob7) FROM t",
            "cannot use the String type as argument 1 in max(\"blob7\")".into(),
        ),
        (
            "SELECT min(formatDateTime(timestamp, '%Y')) FROM t",
            "cannot use the String type as argument 1 in min(…)".into(),
        ),
        (
            "SELECT sum(blob1) FROM t",
            "cannot use the String type as argument 1 in sum(\"blob1\")".into(),
        ),
        (
            "SELECT count(DISTINCT if(blob1 = 'a', blob2, '')) FROM t",
            "count(DISTINCT …) takes a column, not an expression".into(),
        ),
        (
            "SELECT a FROM (SELECT a FROM (SELECT blob1 AS a FROM t))",
            "cannot nest subqueries inside subqueries".into(),
        ),
        (
            "SELECT 1 FROM t WHERE blob1 = 'o''brien'",
            "backslash and single-quote characters in strings are unsupported".into(),
        ),
        (
            r"SELECT 1 FROM t WHERE blob1 LIKE 'mux\_%'",
            "backslash and single-quote characters in strings are unsupported".into(),
        ),
        (
            "SELECT 1 FROM t WHERE blob1 = 'a\n\\n'",
            "backslash and single-quote characters in strings are unsupported".into(),
        ),
        (
            "SELECT DISTINCT blob1 FROM t",
            "selection used unsupported features: SELECT DISTINCT".into(),
        ),
        ("SELECT CASE WHEN 1 THEN 2 END FROM t", "unsupported expression type: CASE WHEN".into()),
        ("SELECT greatest(1, 2) FROM t", "unknown function call: GREATEST".into()),
        ("SELECT COUNT(*) FROM t", "COUNT() function must have 0 arguments: 1".into()),
        ("SELECT blob21 FROM t", "unable to find type of column: \"blob21\"".into()),
        (&long, "SQL was excessively long, exceeded maximum length: 10000".into()),
    ] {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.message, text, "{sql}");
        assert!(error.help.is_some(), "{sql}");
    }
}

#[test]
fn accepts_what_production_accepts_without_a_warning() {
    for sql in [
        "SELECT sum(if(blob1 = 'x', _sample_interval * 1.0, 0.0)) FROM t",
        "SELECT sum(if(blob1 = 'x', _sample_interval, 0)) FROM t",
        "SELECT if(double1 = 0, 0.0, double2 / double1) FROM t",
        "SELECT if(big, 1, 0), if(big, big, 1) FROM (SELECT double1 > 9 AS big FROM t)",
        "SELECT 1 FROM t WHERE timestamp >= toDateTime('2026-08-11 02:54:00')",
        "SELECT 1 FROM t WHERE timestamp BETWEEN toDateTime(0) AND now()",
        "SELECT max(toUInt32(blob7)), formatDateTime(min(timestamp), '%Y') FROM t",
        "SELECT count(DISTINCT day) FROM (SELECT toStartOfDay(timestamp) AS day FROM t)",
        "SELECT substring(blob2, 1, 10) AS day, count() FROM t GROUP BY day ORDER BY day",
        "SELECT blob1 AS slug, count() AS n FROM t GROUP BY blob1 ORDER BY n DESC",
        "SELECT blob1, count() FROM t GROUP BY blob1 ORDER BY count(), blob1",
        "SELECT * FROM t ORDER BY timestamp",
        "SELECT toUnixTimestamp(timestamp) AS timestamp, double1 * 2 AS d FROM t ORDER BY timestamp, d",
        "SELECT 1 FROM t WHERE hex(blob1) = '6F27627269656E'",
        "SELECT 1 FROM t WHERE blob1 = 'a\tb' -- it's a comment",
    ] {
        let query = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(query.warnings(), [], "{sql}");
    }
}

#[test]
fn answers_documented_constructs_that_production_refuses_with_a_warning() {
    let order = |column| format!("unable to find type of column: \"{column}\"");
    let group = || "in the GROUP BY clause you may only provide column names".to_owned();
    for (sql, text, column) in [
        ("SELECT blob1 AS s FROM fleet ORDER BY timestamp", order("timestamp"), 39),
        ("SELECT timestamp AS t FROM fleet ORDER BY -double1, t", order("double1"), 44),
        (
            "SELECT blob1 AS s, count() AS n FROM fleet GROUP BY s ORDER BY blob1",
            order("blob1"),
            64,
        ),
        (
            "SELECT blob1 FROM fleet GROUP BY blob1 ORDER BY SUM(_sample_interval)",
            order("_sample_interval"),
            53,
        ),
        ("SELECT first_value(blob1) FROM fleet ORDER BY timestamp ASC", order("timestamp"), 47),
        (
            "SELECT s FROM (SELECT blob1 AS s FROM fleet ORDER BY timestamp LIMIT 3)",
            order("timestamp"),
            54,
        ),
        ("SELECT count() FROM fleet GROUP BY substring(blob2, 1, 10)", group(), 46),
        ("SELECT count() FROM fleet GROUP BY if(blob1 = '', '/', blob1)", group(), 36),
    ] {
        let query = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let [warning] = query.warnings() else { panic!("{sql}: {:?}", query.warnings()) };
        assert_eq!((warning.kind, &warning.message), (Kind::Warning, &text), "{sql}");
        assert_eq!(warning.at.map(|at| at.column), Some(column), "{sql}");
        assert!(warning.help.is_some());
        query.run(&fleet(), NOW_MS).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    // Each statement has its own warnings.
    let all = Query::parse_all("SELECT 1 AS a FROM t ORDER BY blob1; SELECT 2", &Limits::default());
    let counts = all.unwrap().into_iter().map(|query| query.unwrap().warnings().len());
    assert_eq!(counts.collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn the_length_limit_applies_to_each_statement() {
    let nearly = format!("SELECT '{}'", "x".repeat(9_990));
    assert!(Query::parse(&nearly, &Limits::default()).is_ok());
    let spaced = format!("{nearly}  ;\n\n{nearly};");
    let all = Query::parse_all(&spaced, &Limits::default()).unwrap();
    assert!(all.iter().all(Result::is_ok) && all.len() == 2);
    let longer = nearly.replacen('x', "xxx", 1);
    let all = Query::parse_all(&format!("SELECT 1;\n{longer}"), &Limits::default()).unwrap();
    assert_eq!(all[1].as_ref().unwrap_err().kind, Kind::Limit);
}

#[test]
fn an_error_has_its_location() {
    for (sql, line, column) in [
        ("SELECT\n  uniq(blob1)\nFROM fleet", 2, 3),
        ("SELECT blob1,\n       blob99 FROM fleet", 2, 8),
        ("SELECT 1 FROM fleet\nWHERE double1 + 'a' > 2", 2, 7),
        ("SELECT 1 FROM fleet a", 1, 21),
        ("SELECT 1 + FROM fleet", 1, 12),
        ("SELECT 1 +", 1, 11),
        ("SELECT 'é', x", 1, 13),
    ] {
        let at = parse(sql).expect_err(sql).at.expect(sql);
        assert_eq!((at.line, at.column), (line, column), "{sql}");
    }
}

#[test]
fn an_evaluation_error_names_its_cause() {
    for (sql, what) in [
        ("SELECT 1 FROM nowhere", "unable to find type of column: \"timestamp\""),
        ("SELECT intDiv(1, double1 - double1) FROM fleet", "division by zero"),
        ("SELECT toUInt32(blob6) FROM fleet", "is not a UInt32"),
        ("SELECT toDateTime(blob6) FROM fleet", "is not a DateTime"),
    ] {
        let error = answer(sql, Format::Json).expect_err(sql);
        assert_eq!(error.kind, Kind::Failed);
        assert!(error.message.contains(what), "{sql}: {error}");
    }
}

#[test]
fn a_guarded_expression_is_not_evaluated() {
    assert_eq!(
        rows("SELECT sum(if(double1 = 0, 0, intDiv(8, toUInt32(double1)))) FROM fleet"),
        "14\n"
    );
    assert_eq!(
        rows("SELECT count() FROM fleet WHERE double1 > 0 AND intDiv(8, toUInt32(double1)) > 3"),
        "2\n"
    );
    assert_eq!(
        rows("SELECT count() FROM fleet WHERE double1 = 0 OR intDiv(8, toUInt32(double1)) > 3"),
        "5\n"
    );
}

#[test]
fn resolves_names_as_clickhouse_does() {
    assert_eq!(rows("SELECT 1 AS a, a + 1 AS b, b * 2 AS c"), "1\t2\t4\n");
    assert_eq!(rows("SELECT double1 * 2 AS double1 FROM fleet WHERE double1 > 4"), "8\n");
    assert_eq!(rows("SELECT count() AS n FROM fleet GROUP BY blob7 = 'ams' ORDER BY n"), "3\n3\n");
    assert!(parse("SELECT max(double1) AS double1 FROM fleet WHERE double1 > 1").is_err());
}

#[test]
fn counts_the_rows_before_the_limit() {
    let json = |sql| answer(sql, Format::Json).unwrap();
    assert!(
        json("SELECT index1 FROM fleet LIMIT 2")
            .ends_with("\"rows\":2,\"rows_before_limit_at_least\":6}")
    );
    assert!(
        json("SELECT index1 FROM fleet GROUP BY index1 LIMIT 1 OFFSET 2")
            .ends_with("\"rows\":1,\"rows_before_limit_at_least\":3}")
    );
    assert!(json("SELECT index1 FROM fleet LIMIT 0").contains("\"data\":[],\"rows\":0"));
}

#[test]
fn refuses_a_query_that_is_too_deep_or_too_large() {
    let bomb: String = (1..30)
        .fold("SELECT 1 AS a0".into(), |sql, i| format!("{sql}, a{0} + a{0} AS a{i}", i - 1));
    let deep = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    let chain =
        |operator: &str, n: usize| format!("SELECT 1{}", format!(" {operator} 1").repeat(n));
    let subqueries = format!("{}SELECT 1{}", "SELECT 1 FROM (".repeat(60), ")".repeat(60));
    for sql in [
        bomb,
        deep(100),
        deep(100_000),
        chain("+", 500),
        chain("+", 50_000),
        chain("AND", 50_000),
        chain("BETWEEN 1 AND", 300),
        chain("IN (1) =", 300),
        chain("UNION SELECT", 50_000),
        format!("SELECT {}1", "-".repeat(3_000)),
        format!("SELECT {}1", "- ".repeat(3_000)),
        format!("SELECT {}1", "NOT ".repeat(3_000)),
        format!("SELECT {}1", "INTERVAL ".repeat(3_000)),
        subqueries,
        format!("SELECT {}1", "lower(".repeat(3_000)),
        format!("SELECT {}", "CASE WHEN ".repeat(300)),
        format!("SELECT 1{}", " IS NULL".repeat(900)),
        format!("SELECT {}1", "x -> ".repeat(900)),
        format!("SELECT '{}'", "a".repeat(300_000)),
    ] {
        let error = parse(&sql).expect_err(&sql[..50]);
        let text = format!("{error}");
        assert!(text.len() < 300, "{text}");
    }
    // At the limits.
    assert_eq!(parse(&deep(20)).map(|_| ()), Ok(()));
    assert_eq!(parse(&chain("AND", 900)).map(|_| ()), Ok(()));
    let list = (0..1_000).map(|i| format!("'{i}'")).collect::<Vec<_>>().join(", ");
    assert_eq!(rows(&format!("SELECT count() FROM fleet WHERE blob1 IN ('s1', {list})")), "3\n");
}

#[test]
fn a_pattern_per_row_costs_steps_for_that_row_only() {
    let mut table = Table::new("t");
    for row in 0..10_000 {
        let blobs = vec![row.to_string(), format!("{}%", row % 100)];
        table.push(&Point { blobs, ..Point::default() }).unwrap();
    }
    let tables = BTreeMap::from([("t".to_owned(), table)]);
    let limits = Limits { steps: 500_000, ..Limits::default() };
    let sql = "SELECT count() AS n FROM t WHERE blob1 LIKE blob2 FORMAT TabSeparated";
    let answer = Query::parse(sql, &limits).unwrap().run(&tables, 0).unwrap();
    assert_eq!(answer.write(Format::TabSeparated).unwrap(), "298\n");
}

#[test]
fn the_caller_sets_the_limits() {
    let run = |limits: &Limits, sql| Query::parse(sql, limits)?.run(&fleet(), NOW_MS);
    let few_rows = Limits { rows: 5, ..Limits::default() };
    let error = run(&few_rows, "SELECT index1 FROM fleet").unwrap_err();
    assert_eq!(
        (error.kind, error.help.as_deref()),
        (Kind::Limit, Some("ask for fewer with LIMIT"))
    );
    assert!(run(&few_rows, "SELECT index1 FROM fleet LIMIT 5").is_ok());
    assert!(run(&few_rows, "SELECT count() FROM (SELECT index1 FROM fleet)").is_ok());
    let few_steps = Limits { steps: 10, ..Limits::default() };
    let error = run(&few_steps, "SELECT sum(double1 + 1) FROM fleet").unwrap_err();
    assert_eq!(error.kind, Kind::Limit);
}

#[test]
fn answers_over_an_empty_table() {
    let tables = BTreeMap::from([("fleet".to_owned(), Table::new("fleet"))]);
    let run = |sql| parse(sql)?.run(&tables, NOW_MS)?.write(Format::TabSeparated);
    assert_eq!(
        run(
            "SELECT count(), max(double1), argMax(blob1, double1), max(timestamp), topK(blob1) FROM fleet"
        ),
        Ok("0\t0\t\t1970-01-01 00:00:00\t[]\n".into())
    );
    assert_eq!(run("SELECT blob1, count() FROM fleet GROUP BY blob1"), Ok(String::new()));
    assert_eq!(run("SELECT * FROM fleet ORDER BY timestamp"), Ok(String::new()));
}

#[test]
fn checks_each_statement_on_its_own() {
    let sql = "-- a comment\nSELECT 1;\n/* another; */ SELECT uniq(blob1) FROM t;\nSELECT ';' ;; ";
    let checked = Query::parse_all(sql, &Limits::default()).unwrap();
    assert_eq!(checked.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(checked[1].as_ref().unwrap_err().at.map(|at| at.line), Some(3));
}
