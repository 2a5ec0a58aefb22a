//! Generates queries over a small dataset `t`; most are valid.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::many_single_char_names,
    reason = "a panic is a failed test"
)]

use std::collections::BTreeMap;

use aesql::{Point, Table};
use proptest::prelude::*;

/// Fifty data points with edge-case values.
pub fn tables() -> BTreeMap<String, Table> {
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

/// One expression of each kind.
#[derive(Clone, Debug)]
struct Values {
    number: String,
    text: String,
    date: String,
    condition: String,
}

fn one_of(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(of).prop_map(str::to_owned)
}

fn leaf() -> impl Strategy<Value = Values> {
    let number = prop_oneof![
        one_of(&[
            "double1",
            "double2",
            "double3",
            "_sample_interval",
            "0",
            "1",
            "-1",
            "255",
            "300",
            "18446744073709551615",
            "-9223372036854775808",
            "0.5",
            "1e300",
            "-1e300",
            "true",
            "0 / 0",
        ]),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
    ];
    let text = one_of(&["blob1", "blob2", "index1", "dataset", "''", "'a'", "'é'", "'%'", "'12'"]);
    let date = one_of(&[
        "timestamp",
        "now()",
        "today()",
        "toDateTime(0)",
        "toDateTime(timestamp, 'Asia/Kathmandu')",
    ]);
    let condition = one_of(&["double1 > 1", "empty(blob1)", "true", "double2 != double2"]);
    (number, text, date, condition).prop_map(|(number, text, date, condition)| Values {
        number,
        text,
        date,
        condition,
    })
}

/// Combines two expressions of each kind into a larger one.
fn compose(a: &Values, b: &Values, pick: [prop::sample::Index; 4], n: i64) -> Values {
    let (x, y) = (&a.number, &b.number);
    let (s, t) = (&a.text, &b.text);
    let (d, e) = (&a.date, &b.date);
    let (c, f) = (&a.condition, &b.condition);
    let units = ["SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR"];
    let unit = pick[0].get(&units);
    let numbers = [
        format!("({x} + {y})"),
        format!("({x} - {y})"),
        format!("({x} * {y})"),
        format!("({x} / {y})"),
        format!("({x} % {y})"),
        format!("-({x})"),
        format!("intDiv({x}, {y})"),
        format!("pow({x}, {y})"),
        format!("log({x})"),
        format!("round({x}, toUInt8({y}))"),
        format!("round({x}, {n})"),
        format!("floor({x})"),
        format!("ceil({x}, 2)"),
        format!("toUInt8({x})"),
        format!("toUInt32({s})"),
        format!("bitXor(toUInt32({x}), toUInt8({y}))"),
        format!("bitShiftLeft(toUInt32({x}), {n})"),
        format!("bitShiftRight(toUInt8({x}), toUInt8({y}))"),
        format!("bitRotateLeft(toUInt8({x}), {n})"),
        format!("bitTest({x}, toUInt8({y}))"),
        format!("bitNot(toUInt32({x}))"),
        format!("bitCount({x})"),
        format!("length({s})"),
        format!("position({s} IN {t})"),
        format!("toUnixTimestamp({d})"),
        format!("toYear({d})"),
        format!("toDayOfWeek({d})"),
        format!("toHour({d})"),
        format!("({d} - {e})"),
        format!("if({c}, {x}, {y})"),
    ];
    let texts = [
        format!("lower({s})"),
        format!("upperUTF8({s})"),
        format!("substring({s}, {n})"),
        format!("substring({s}, toUInt8({x}), {n})"),
        format!("format('{{}}-{{}}', {s}, {x})"),
        format!("format('{{1}}{{0}}', {d}, {c})"),
        format!("formatDateTime({d}, '%Y %M %V %z %j')"),
        format!("hex({x})"),
        format!("bin({s})"),
        format!("if({c}, {s}, {t})"),
    ];
    let dates = [
        format!("({d} + INTERVAL '{n}' {unit})"),
        format!("({d} - INTERVAL '{n}' {unit})"),
        format!("({d} + {x})"),
        format!("toStartOfInterval({d}, INTERVAL '{n}' {unit})"),
        format!("toStartOfInterval({d}, INTERVAL '{n}' {unit}, 'America/New_York')"),
        format!("toStartOfWeek({d})"),
        format!("toStartOfHour({d})"),
        format!("toDateTime({x})"),
        format!("toDateTime({d}, 'Europe/London')"),
        format!("if({c}, {d}, {e})"),
    ];
    let conditions = [
        format!("({x} < {y})"),
        format!("({x} = {y})"),
        format!("({s} >= {t})"),
        format!("({d} != {e})"),
        format!("({c} AND {f})"),
        format!("({c} OR {f} OR {c})"),
        format!("(NOT {c})"),
        format!("({s} LIKE {t})"),
        format!("({s} NOT ILIKE '%é_')"),
        format!("({x} IN (1, 2.5, -1))"),
        format!("({x} NOT BETWEEN {y} AND {n})"),
        format!("startsWith({s}, {t})"),
        format!("({d} > toDateTime('2020-01-01 00:00:00'))"),
    ];
    Values {
        number: pick[0].get(&numbers).clone(),
        text: pick[1].get(&texts).clone(),
        date: pick[2].get(&dates).clone(),
        condition: pick[3].get(&conditions).clone(),
    }
}

fn values() -> impl Strategy<Value = Values> {
    leaf().prop_recursive(3, 8, 2, |inner| {
        let n = prop_oneof![-5..40_i64, any::<i64>()];
        (inner.clone(), inner, any::<[prop::sample::Index; 4]>(), n)
            .prop_map(|(a, b, pick, n)| compose(&a, &b, pick, n))
    })
}

fn aggregates(Values { number: x, text: s, date: d, condition: c }: &Values) -> [String; 18] {
    [
        "count()".to_owned(),
        format!("sum({x})"),
        format!("avg({x})"),
        format!("min({x})"),
        format!("max({d})"),
        format!("argMax({s}, {x})"),
        format!("argMin({d}, {s})"),
        format!("first_value({d})"),
        format!("last_value({x})"),
        format!("quantileExactWeighted(0.9)({x}, _sample_interval)"),
        format!("topK(3)({s})"),
        format!("topKWeighted({x}, _sample_interval)"),
        format!("countIf({c})"),
        format!("sumIf({x}, {c})"),
        format!("avgIf({x}, {c})"),
        "count(DISTINCT blob1)".to_owned(),
        format!("sum(DISTINCT {x})"),
        format!("avg(DISTINCT {x})"),
    ]
}

pub fn query() -> impl Strategy<Value = String> {
    let tail =
        one_of(&["", " LIMIT 3", " LIMIT ALL OFFSET 2", " LIMIT 2 OFFSET 49", " FORMAT JSON"]);
    let from = one_of(&["t", "(SELECT * FROM t WHERE double3 > 9 ORDER BY blob1 LIMIT 30)"]);
    let clauses = any::<[bool; 3]>();
    (values(), values(), any::<prop::sample::Index>(), clauses, from, tail).prop_map(
        |(a, b, pick, [grouped, filtered, ordered], from, tail)| {
            let filter = if filtered { format!(" WHERE {}", b.condition) } else { String::new() };
            if grouped {
                let call = pick.get(&aggregates(&a)).clone();
                let key = b.text;
                let order = if ordered { " HAVING n > 0 ORDER BY n DESC, k" } else { "" };
                return format!(
                    "SELECT {key} AS k, count() AS n, {call} AS v FROM {from}{filter} \
                     GROUP BY k{order}{tail}"
                );
            }
            let Values { number, text, date, condition } = a;
            let order = if ordered { " ORDER BY a DESC, b, c" } else { "" };
            format!(
                "SELECT {number} AS a, {text} AS b, {date} AS c, {condition} AS d \
                 FROM {from}{filter}{order}{tail}"
            )
        },
    )
}
