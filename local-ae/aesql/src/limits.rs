//! What a query may cost.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::memory::Memory;

/// Analytics Engine refuses a longer query. Whether it counts characters or bytes is not known: bytes
/// are never fewer.
pub const QUERY_BYTES: usize = 10_000;

/// Bytes of a text of several statements.
pub const TEXT_BYTES: usize = 256 * 1024;

/// Parentheses within parentheses. The parser recurses through some ten functions for each, with some
/// 20 KB of stack in an optimized build, and a wasm module has 1 MiB; queries that people write have
/// fewer than ten.
pub const NESTING: usize = 20;

/// Calls of the parser's for an expression or a query within those for another: one for each
/// parenthesis and one or two for operators between them.
pub const RECURSION: usize = 36;

/// SELECTs in one query, each of them a subquery of the one before; they take some 30 KB of stack.
pub const SELECTS: usize = 8;

/// Operators and keywords in one query. A chain such as `a + b + c` makes a tree that is as deep as it
/// is long, and the parser frees it recursively: 1,000 levels of some 200 bytes are far from the end
/// of wasm's 1 MiB of stack. Lists for IN are free.
pub const OPERATORS: usize = 1_000;

/// Levels of an expression, where the terms of one AND or OR count as one: with some kilobytes of
/// stack for each when it is checked, and when it is evaluated.
pub const EXPRESSION_DEPTH: usize = 50;

/// Parts of all expressions after aliases have been put in place, and columns that `*` stands for.
/// Both can grow without bound: 30 of `a + a AS b`, or of `SELECT *, * FROM (…)`, make a thousand
/// million.
pub const EXPRESSION_PARTS: usize = 100_000;

/// Rows of an answer; as many as would be 100 MB of JSON at 100 bytes each.
pub const ROWS: usize = 1_000_000;

/// Bytes of memory that a query may hold besides the tables: its expressions, the columns that it
/// computes, its groups, its answer and the answer as it is written. A million rows of a hundred bytes
/// fit twice, and it fits into wasm's 4 GiB beside the tables.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// Bytes of one string, in a data point or computed. Analytics Engine takes 16,000 bytes; what is done
/// with a single string is not counted as memory while it is done, and takes a few times its length.
pub const STRING_BYTES: usize = 4 * 1024 * 1024;

/// Values computed, and 16-byte pieces of text read or written. A million rows cost some ten million
/// for a usual query; ten thousand million are about a minute's work.
pub const STEPS: u64 = 10_000_000_000;

/// Text in one column of one batch of rows: 65,536 rows of 4 KiB. The place of a string in it fits into
/// four bytes.
pub(crate) const COLUMN_TEXT_BYTES: usize = 256 * 1024 * 1024;

/// What a query may cost. The default is the constants of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one statement's text.
    pub query_bytes: usize,
    /// Rows of the answer.
    pub rows: usize,
    /// Values computed in the course of one evaluation; see [`STEPS`].
    pub steps: u64,
    /// Bytes of memory, the tables' not counted; see [`MEMORY`].
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { query_bytes: QUERY_BYTES, rows: ROWS, steps: STEPS, memory: MEMORY }
    }
}

/// What is left of a query's steps and memory.
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
