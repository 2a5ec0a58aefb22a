//! The SQL dialect of Workers Analytics Engine, interpreted over data points in memory.
//!
//! [`Query::parse`] reads a query and checks it against what Analytics Engine documents, and what it is
//! known to refuse all the same: what the cloud would refuse is refused here, with the place and, where
//! there is one, the way to write it.
//! [`Query::run`] evaluates it over [`Tables`] of [`Point`]s. Functions compute what `ClickHouse`
//! computes, which Analytics Engine runs on. No I/O, no clock: the time is an argument.
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
//! let answer = Query::parse(sql, &Limits::default())?.run(&tables, 0)?;
//! assert_eq!(answer.write(Format::TabSeparated)?, "Oslo\t-3.5\n");
//!
//! let error = Query::parse("SELECT DISTINCT blob1 FROM weather", &Limits::default()).unwrap_err();
//! assert_eq!(error.help.as_deref(), Some("write SELECT x … GROUP BY x"));
//! # Ok::<(), aesql::Error>(())
//! ```

#![forbid(unsafe_code)]

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
pub use output::{Answer, Format};
pub use point::{Point, SLOTS};
pub use table::{Table, Tables};
pub use time::parse_rfc_3339;

/// A query that was read and checked.
#[derive(Clone, Debug)]
pub struct Query {
    plan: plan::Plan,
    limits: Limits,
}

impl Query {
    /// Reads one statement, which may end in a semicolon, and checks it.
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

    /// Reads statements separated by semicolons and checks each. Fails as a whole only if the text is
    /// longer than [`TEXT_BYTES`](limits::TEXT_BYTES) or has no end of a string or comment.
    pub fn parse_all(sql: &str, limits: &Limits) -> Result<Vec<Result<Self, Error>>, Error> {
        let statements = parse::split(sql)?;
        let cost = check::Cost::new(limits.memory);
        let check = |statement| {
            let parsed = parse::parse(statement, limits)?;
            Ok(Self { plan: check::check(parsed, &cost)?, limits: *limits })
        };
        Ok(statements.into_iter().map(check).collect())
    }

    /// What Analytics Engine documents and has been seen to refuse, by [`Kind::Warning`]: the query is
    /// answered here, but may not be there.
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.plan.warnings
    }

    /// The format that the query asks for.
    #[must_use]
    pub fn format(&self) -> Format {
        self.plan.format
    }

    /// Evaluates the query over those tables at that time, in milliseconds since 1970: what `now()`
    /// and `today()` are.
    pub fn run(&self, tables: &dyn Tables, now_ms: i64) -> Result<Answer, Error> {
        run::run(&self.plan, tables, now_ms, &self.limits)
    }
}
