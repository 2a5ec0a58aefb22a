//! The SQL engine of local-ae as a wasm module: it holds data points in memory as columns and runs queries over
//! them. It persists nothing: `../store.js` stores the points and loads them into an engine.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use aesql::{Kind, Limits, Point, Query, Table};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use wasm_bindgen::prelude::wasm_bindgen;

/// The data points of all datasets.
#[wasm_bindgen]
#[derive(Default)]
pub struct Engine {
    tables: BTreeMap<String, Table>,
    /// The points' datasets in order of arrival, so that the oldest points can be dropped first.
    runs: VecDeque<DatasetRun>,
}

/// Consecutive points of one dataset.
struct DatasetRun {
    dataset: String,
    points: usize,
}

#[wasm_bindgen]
pub struct QueryOutcome {
    /// Whether the body is the result; otherwise it is the error message.
    pub ok: bool,
    content_type: &'static str,
    body: Vec<u8>,
    warnings: String,
}

/// The errors and warnings in the queries of a file.
#[wasm_bindgen]
pub struct LintOutcome {
    pub errors: usize,
    pub warnings: usize,
    text: String,
}

#[wasm_bindgen]
impl LintOutcome {
    /// One line per error or warning, each followed by a line with help if there is any.
    #[must_use]
    #[wasm_bindgen(getter)]
    pub fn text(&self) -> String {
        self.text.clone()
    }
}

/// Checks queries without running them. `file` is the file's name in the report.
#[must_use]
#[wasm_bindgen]
pub fn lint(file: &str, sql: &str) -> LintOutcome {
    let findings = aesql::lint(sql, &Limits::default());
    let text = findings.iter().map(|finding| finding.report(file)).collect();
    let warnings = findings.iter().filter(|finding| finding.kind == Kind::Warning).count();
    LintOutcome { errors: findings.len() - warnings, warnings, text }
}

#[wasm_bindgen]
impl QueryOutcome {
    #[must_use]
    #[wasm_bindgen(getter, js_name = contentType)]
    pub fn content_type(&self) -> String {
        self.content_type.to_owned()
    }

    /// Why the cloud may refuse the query, one reason per line.
    #[must_use]
    #[wasm_bindgen(getter)]
    pub fn warnings(&self) -> String {
        self.warnings.clone()
    }

    /// Returns bytes: as a JavaScript string, a large body would be converted twice.
    #[must_use]
    #[wasm_bindgen(js_name = intoBody)]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }
}

#[wasm_bindgen]
impl Engine {
    #[must_use]
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk's points after the first `skip` lines. `toLine` in `../point.js` writes the lines.
    pub fn append(&mut self, lines: &str, skip: usize) -> Result<(), String> {
        for line in lines.split('\n').skip(skip) {
            let Line(point) = serde_json::from_str(line).map_err(|error| error.to_string())?;
            self.push(&point).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn push(&mut self, point: &Point) -> Result<(), aesql::Error> {
        if let Some(table) = self.tables.get_mut(&point.dataset) {
            table.push(point)?;
        } else {
            let mut table = Table::new(point.dataset.as_str());
            table.push(point)?;
            self.tables.insert(point.dataset.clone(), table);
        }
        match self.runs.back_mut() {
            Some(run) if run.dataset == point.dataset => run.points += 1,
            _ => self.runs.push_back(DatasetRun { dataset: point.dataset.clone(), points: 1 }),
        }
        Ok(())
    }

    /// Drops the oldest points, and datasets that have no points left.
    #[wasm_bindgen(js_name = dropOldest)]
    pub fn drop_oldest(&mut self, mut points: usize) {
        while points > 0
            && let Some(run) = self.runs.front_mut()
        {
            let dropped = points.min(run.points);
            points -= dropped;
            run.points -= dropped;
            if let Some(table) = self.tables.get_mut(&run.dataset) {
                table.evict_to(table.len().saturating_sub(dropped));
                if table.is_empty() {
                    self.tables.remove(&run.dataset);
                }
            }
            if run.points == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// The memory of all points in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tables.values().map(Table::bytes).sum()
    }

    /// Runs a query. `now` is in milliseconds since 1970.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "JavaScript's times are whole numbers")]
    pub fn query(&self, sql: &str, now: f64) -> QueryOutcome {
        let outcome = Query::parse(sql, &Limits::default()).and_then(|query| {
            let format = query.format();
            let body = query.run(&self.tables, now as i64)?.write(format)?.into();
            let warnings: Vec<_> = query.warnings().iter().map(ToString::to_string).collect();
            let warnings = warnings.join("\n");
            Ok(QueryOutcome { ok: true, content_type: format.content_type(), body, warnings })
        });
        outcome.unwrap_or_else(|error| QueryOutcome {
            ok: false,
            content_type: "text/plain; charset=UTF-8",
            // The cloud's prefix.
            body: format!("Input was invalid: {error}\n").into(),
            warnings: String::new(),
        })
    }
}

/// A point in its stored form: `[timestamp, sample interval, dataset, index1, [blobs…], [doubles…]]`.
struct Line(Point);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Columns = (i64, u32, String, String, Vec<String>, Vec<StoredDouble>);
        let (timestamp_ms, sample_interval, dataset, index1, blobs, doubles) =
            Columns::deserialize(deserializer)?;
        let doubles = doubles.into_iter().map(|double| double.0).collect();
        Ok(Self(Point { timestamp_ms, dataset, index1, blobs, doubles, sample_interval }))
    }
}

/// A JSON number, or the name of NaN or an infinity, since JSON has no numbers for them.
struct StoredDouble(f64);

impl<'de> Deserialize<'de> for StoredDouble {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DoubleVisitor).map(Self)
    }
}

struct DoubleVisitor;

#[expect(clippy::cast_precision_loss, reason = "JavaScript wrote it from a double")]
impl Visitor<'_> for DoubleVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
    }

    fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<f64, E> {
        match name {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => Err(E::custom("a double is a number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(engine: &Engine, dataset: &str) -> String {
        let sql = format!("SELECT count() FROM {dataset} FORMAT TabSeparated");
        String::from_utf8(engine.query(&sql, 0.0).into_body()).unwrap()
    }

    #[test]
    fn drops_the_oldest_points_of_all_datasets_first() {
        let line = |dataset: &str| format!(r#"[0,1,"{dataset}","",[],[]]"#);
        let lines = ["a", "a", "b", "a", "b"].map(line).join("\n");
        let mut engine = Engine::new();
        engine.append(&lines, 0).unwrap();
        engine.drop_oldest(3);
        assert_eq!([count(&engine, "a"), count(&engine, "b")], ["1\n", "1\n"]);
        engine.drop_oldest(1);
        assert!(!engine.query("SELECT count() FROM a", 0.0).ok, "a has no points any more");
        assert_eq!(count(&engine, "b"), "1\n");
        engine.drop_oldest(9);
        assert!(engine.tables.is_empty() && engine.runs.is_empty());
    }

    #[test]
    fn reads_every_column_of_a_stored_line() {
        let mut engine = Engine::new();
        let skipped = "no JSON, but skipped";
        let line = r#"[1700000000123,3,"d","i\u0000",["x","é"],[1.5,"-Infinity",2]]"#;
        engine.append(&format!("{skipped}\n{line}"), 1).unwrap();
        let sql = "SELECT timestamp, _sample_interval, dataset, index1, blob2, blob3, double1, \
                   double2, double3, double4 FROM d FORMAT TabSeparated";
        let text = String::from_utf8(engine.query(sql, 0.0).into_body()).unwrap();
        assert_eq!(text, "2023-11-14 22:13:20\t3\td\ti\\0\té\t\t1.5\t-inf\t2\t0\n");
    }

    #[test]
    fn a_result_has_warnings_and_an_error_has_the_clouds_prefix() {
        let mut engine = Engine::new();
        engine.append(r#"[0,1,"d","",[],[]]"#, 0).unwrap();
        let doubtful = engine.query("SELECT 1 AS a FROM d ORDER BY blob1", 0.0);
        assert!(doubtful.ok);
        assert!(
            doubtful.warnings().starts_with("unable to find type of column: \"blob1\" (at 1:31; ")
        );
        assert_eq!(engine.query("SELECT 1 AS a FROM d", 0.0).warnings(), "");
        let refused = String::from_utf8(engine.query("SELECT uniq(blob1) FROM d", 0.0).into_body());
        let text =
            "Input was invalid: unknown function call: UNIQ (at 1:8; write count(DISTINCT x))\n";
        assert_eq!(refused.unwrap(), text);
    }

    #[test]
    fn refuses_a_line_that_is_not_a_point() {
        for line in ["", "[]", r#"[0,1,"d","",[],["one"]]"#] {
            assert!(Engine::new().append(line, 0).is_err(), "{line}");
        }
    }
}
