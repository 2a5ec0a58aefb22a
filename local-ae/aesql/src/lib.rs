//! An interpreter for the SQL dialect of Workers Analytics Engine, over data points in memory.
//!
//! [`Query::parse`] refuses a query that Analytics Engine refuses, according to its documentation or to its
//! users' reports. The error has the location and, if one exists, the documented alternative. [`lint`] does
//! the same for several statements. [`Query::run`] evaluates a query over [`Tables`] of [`Point`]s. Functions
//! return what `ClickHouse` returns, on which Analytics Engine runs. The library does no I/O and reads no clock.
//!
//! ```
//! use std::collections::BTreeMap;
//! use aesql::{Format, Limits, Point, Query, Table};
//!
//! let mut table = Table::new("weather");
//! table.push(&Point { blobs: vec!["Oslo".into()], doubles: vec![-3.5], ..Point::default() })?;
//! let tables = BTreeMap::from([("weather".to_owned(), table)]);
//!
//! let sql = "SELECT blob1 AS city, min(double1) AS coldest FROM weather GROUP BY city";
//! let result = Query::parse(sql, &Limits::default())?.run(&tables, 0)?;
//! assert_eq!(result.write(Format::TabSeparated)?, "Oslo\t-3.5\n");
//!
//! let error = Query::parse("SELECT DISTINCT blob1 FROM weather", &Limits::default()).unwrap_err();
//! assert_eq!(error.help.as_deref(), Some("write SELECT x … GROUP BY x"));
//! # Ok::<(), aesql::Error>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// Makes doctests of the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod accumulate;
mod advice;
mod aggregate;
mod check;
mod column;
mod error;
pub mod limits;
mod memory;
mod output;
mod parse;
mod plan;
mod point;
mod run;
mod scalar;
mod table;
mod time;
mod value;

pub use error::{Error, Kind, Location};
pub use limits::Limits;
pub use output::{Format, QueryResult};
pub use point::{Point, SLOTS};
pub use table::{Table, Tables};
pub use time::parse_rfc_3339;

/// Checks semicolon-separated statements without running them. Returns, in statement order, the reasons why
/// Analytics Engine would refuse them, or may refuse them ([`Kind::Warning`]).
#[must_use]
pub fn lint(sql: &str, limits: &Limits) -> Vec<Error> {
    let queries = Query::parse_all(sql, limits).unwrap_or_else(|error| vec![Err(error)]);
    let findings = queries.into_iter().map(|query| match query {
        Ok(query) => query.plan.warnings,
        Err(error) => vec![error],
    });
    findings.flatten().collect()
}

/// A parsed and checked query.
#[derive(Clone, Debug)]
pub struct Query {
    plan: plan::Plan,
    limits: Limits,
}

impl Query {
    /// Parses and checks one statement; it may end with a semicolon.
    pub fn parse(sql: &str, limits: &Limits) -> Result<Self, Error> {
        parse::check_length(sql.len(), limits)?;
        let mut statements = Self::parse_all(sql, limits)?;
        match (statements.pop(), statements.is_empty()) {
            (Some(only), true) => only,
            (Some(_), false) => Err(Error::refused("there is more than one statement")
                .help("send each in a request of its own")),
            (None, _) => Err(Error::new(Kind::Syntax, "there is no statement")),
        }
    }

    /// Parses and checks semicolon-separated statements. Fails as a whole only if the text is longer than
    /// [`TEXT_BYTES`](limits::TEXT_BYTES), or if a string or a comment is not terminated.
    pub fn parse_all(sql: &str, limits: &Limits) -> Result<Vec<Result<Self, Error>>, Error> {
        let statements = parse::split(sql)?;
        let cost = check::Cost::new(limits.memory);
        let check = |statement| {
            let parsed = parse::parse(statement, limits)?;
            Ok(Self { plan: check::check(parsed, &cost)?, limits: *limits })
        };
        Ok(statements.into_iter().map(check).collect())
    }

    /// Documented constructs in the query that users have seen Analytics Engine refuse: the query runs here,
    /// but may fail in the cloud. Each has [`Kind::Warning`].
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.plan.warnings
    }

    /// The format in the query's `FORMAT` clause; JSON by default.
    #[must_use]
    pub fn format(&self) -> Format {
        self.plan.format
    }

    /// Evaluates the query. `now_ms` is the time of `now()` and `today()` in milliseconds since 1970.
    pub fn run(&self, tables: &dyn Tables, now_ms: i64) -> Result<QueryResult, Error> {
        run::run(&self.plan, tables, now_ms, &self.limits)
    }
}
