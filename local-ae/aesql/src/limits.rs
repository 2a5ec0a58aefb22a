//! Limits on a query's size, time and memory.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::memory::Memory;

/// Analytics Engine refuses a longer query. It is not known whether it counts characters or bytes; bytes
/// are the stricter measure.
pub const QUERY_BYTES: usize = 10_000;

/// Bytes of a text with several statements.
pub const TEXT_BYTES: usize = 256 * 1024;

/// Nesting depth of parentheses. Each level takes the parser some ten nested calls and some 20 KB of stack
/// in an optimized build, and a wasm module has 1 MiB. Hand-written queries nest fewer than ten.
pub const NESTING: usize = 20;

/// The parser's recursion limit: a parenthesis takes one level, operators between parentheses take one
/// or two.
pub const RECURSION: usize = 36;

/// SELECTs in one query, each a subquery of the one before. Each takes some 30 KB of stack.
pub const SELECTS: usize = 8;

/// Operators and keywords in one query. A chain such as `a + b + c` becomes a tree as deep as the chain
/// is long, and the parser frees it recursively: 1,000 levels of some 200 bytes are far below wasm's
/// 1 MiB of stack. Items of an IN list do not count.
pub const OPERATORS: usize = 1_000;

/// Depth of an expression; all terms of one AND or OR are on the same level. Each level takes some
/// kilobytes of stack, both in the check and in the evaluation.
pub const EXPRESSION_DEPTH: usize = 50;

/// Nodes of all expressions after alias substitution, plus the columns that `*` expands to. Both can
/// grow exponentially: 30 times `a + a AS b`, or `SELECT *, * FROM (…)`, makes a thousand million.
pub const EXPRESSION_PARTS: usize = 100_000;

/// Rows of an answer: 100 MB of JSON at 100 bytes each.
pub const ROWS: usize = 1_000_000;

/// Bytes of memory that a query may hold, without the tables: its expressions, computed columns, groups,
/// answer and serialized answer. It has room for a million rows of a hundred bytes twice, and fits
/// into wasm's 4 GiB beside the tables.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// Bytes of one string, stored or computed. Analytics Engine accepts 16,000 bytes. Temporary copies of a
/// single string do not count towards [`MEMORY`] and take a few times its length.
pub const STRING_BYTES: usize = 4 * 1024 * 1024;

/// Computed values, plus 16-byte pieces of text read or written. A typical query over a million rows
/// takes some ten million steps; ten thousand million take about a minute.
pub const STEPS: u64 = 10_000_000_000;

/// Bytes of text in one column of a batch: 65,536 rows of 4 KiB. An offset into it fits four bytes.
pub(crate) const COLUMN_TEXT_BYTES: usize = 256 * 1024 * 1024;

/// The limits of a query. The defaults are the constants of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one statement.
    pub query_bytes: usize,
    /// Rows of the answer.
    pub rows: usize,
    /// Steps of one evaluation; see [`STEPS`].
    pub steps: u64,
    /// Bytes of memory, without the tables; see [`MEMORY`].
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
        self.steps.set(left.ok_or_else(|| Error::limit("the query takes too long"))?);
        Ok(())
    }
}
