//! An interpreter for the SQL dialect of Workers Analytics Engine, over data points in memory.
//!
//! [`Query::parse`] refuses a query that Analytics Engine would refuse, by its documentation or by what
//! users have reported. The error has the location and, where there is one, the documented alternative.
//! [`lint`] does so for a text of several queries. [`Query::run`] evaluates a query over [`Tables`] of [`Point`]s. Functions return what `ClickHouse`
//! returns, on which Analytics Engine runs. No I/O, no clock: the time is an argument.
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

/// Its examples are tested.
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

/// Checks each of the statements of a text, without running them. Returns what Analytics Engine would
/// refuse, and with [`Kind::Warning`] what it may refuse, in the order of the statements.
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
    /// Parses and checks one statement, which may end in a semicolon.
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

    /// Parses and checks each of the statements, which are separated by semicolons. Fails as a whole
    /// only if the text is longer than [`TEXT_BYTES`](limits::TEXT_BYTES), or if a string or a comment
    /// is not terminated.
    pub fn parse_all(sql: &str, limits: &Limits) -> Result<Vec<Result<Self, Error>>, Error> {
        let statements = parse::split(sql)?;
        let cost = check::Cost::new(limits.memory);
        let check = |statement| {
            let parsed = parse::parse(statement, limits)?;
            Ok(Self { plan: check::check(parsed, &cost)?, limits: *limits })
        };
        Ok(statements.into_iter().map(check).collect())
    }

    /// Documented constructs that Analytics Engine has been seen to refuse: the query runs here, but may
    /// fail in the cloud. Each has [`Kind::Warning`].
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.plan.warnings
    }

    /// The format in the query's `FORMAT` clause; JSON if it has none.
    #[must_use]
    pub fn format(&self) -> Format {
        self.plan.format
    }

    /// Evaluates the query. `now_ms`, in milliseconds since 1970, is the time of `now()` and `today()`.
    pub fn run(&self, tables: &dyn Tables, now_ms: i64) -> Result<QueryResult, Error> {
        run::run(&self.plan, tables, now_ms, &self.limits)
    }
}
