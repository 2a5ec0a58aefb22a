//! Limits on a query's size, time and memory.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::memory::Memory;

/// Analytics Engine refuses longer queries. Whether it counts characters or bytes is unknown; bytes are
/// stricter.
pub const QUERY_BYTES: usize = 10_000;

/// Maximum bytes of a text with several statements.
pub const TEXT_BYTES: usize = 256 * 1024;

/// Maximum depth of parentheses. In an optimized build, each level takes some ten nested calls and some 20 KB
/// of stack, of which a wasm module has 1 MiB. Hand-written queries have fewer than ten levels.
pub const NESTING: usize = 20;

/// The parser's recursion limit. A parenthesis takes one level; operators between parentheses take one or two.
pub const RECURSION: usize = 36;

/// Maximum number of SELECTs in one query. Each nested SELECT takes some 30 KB of stack.
pub const SELECTS: usize = 8;

/// Maximum number of operators and keywords in one query. The tree of `a + b + c …` is as deep as the chain is
/// long, and the parser frees it recursively: 1,000 levels of some 200 bytes are far below wasm's 1 MiB of
/// stack. Items of an IN list do not count.
pub const OPERATORS: usize = 1_000;

/// Maximum depth of an expression; the terms of one AND or OR are on the same level. Each level takes some
/// kilobytes of stack in the check and in the evaluation.
pub const EXPRESSION_DEPTH: usize = 50;

/// Maximum number of expression nodes after alias substitution, plus the columns that `*` expands to. Both can
/// grow exponentially: 30 times `a + a AS b`, or `SELECT *, * FROM (…)`, is a thousand million.
pub const EXPRESSION_PARTS: usize = 100_000;

/// Maximum number of rows in a result: 100 MB of JSON at 100 bytes per row.
pub const ROWS: usize = 1_000_000;

/// Maximum bytes of memory that a query may hold: its expressions, computed columns, groups, result and
/// serialized result, without the tables. A million rows of a hundred bytes fit twice, and the limit fits into
/// wasm's 4 GiB beside the tables.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// Maximum bytes of one string, stored or computed; Analytics Engine accepts 16,000. Temporary copies of a
/// single string take a few times its length and do not count towards [`MEMORY`].
pub const STRING_BYTES: usize = 4 * 1024 * 1024;

/// Maximum number of steps: a computed value is one step, and so are 16 bytes of text that are read or written.
/// A typical query over a million rows takes some ten million; ten thousand million take about a minute.
pub const STEPS: u64 = 10_000_000_000;

/// Maximum bytes of text in one column of a batch: 65,536 rows of 4 KiB. Offsets into it fit in four bytes.
pub(crate) const COLUMN_TEXT_BYTES: usize = 256 * 1024 * 1024;

/// The limits of a query. The defaults are the constants of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of one statement.
    pub query_bytes: usize,
    /// Maximum number of rows in the result.
    pub rows: usize,
    /// Maximum number of steps of one evaluation; see [`STEPS`].
    pub steps: u64,
    /// Maximum bytes of memory, without the tables; see [`MEMORY`].
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { query_bytes: QUERY_BYTES, rows: ROWS, steps: STEPS, memory: MEMORY }
    }
}

/// A query's remaining steps and memory.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    pub(crate) memory: Memory,
}

impl Budget {
    pub(crate) fn new(steps: u64, memory: Memory) -> Self {
        Self { steps: Cell::new(steps), memory }
    }

    pub(crate) fn spend(&self, steps: usize) -> Result<()> {
        let left = self.steps.get().checked_sub(steps as u64);
        self.steps.set(left.ok_or_else(|| {
            Error::limit(
                "the query needs too many steps; read fewer rows, for example of a shorter time",
            )
        })?);
        Ok(())
    }
}
