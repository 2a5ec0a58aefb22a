//! Limits on a statement's size, and its warnings.

use std::cell::{Cell, RefCell};

use crate::error::{Error, Result};
use crate::limits::EXPRESSION_PARTS;
use crate::memory::exceeded;

/// The totals of expressions and columns so far, and the warnings.
pub(crate) struct Cost {
    /// Nodes and columns of the current statement.
    pub(super) parts: Cell<usize>,
    /// Bytes of memory of all statements in the text.
    pub(super) bytes: Cell<usize>,
    limit: usize,
    /// Warnings about the current statement.
    pub(super) warnings: RefCell<Vec<Error>>,
}

impl Cost {
    /// `limit` is in bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { parts: Cell::new(0), bytes: Cell::new(0), limit, warnings: RefCell::default() }
    }

    /// Adds a warning unless it is a duplicate: an expression may be bound more than once.
    pub(super) fn warn(&self, warning: Error) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Counts a node with `text` bytes of strings. Discarded nodes also count: an expression may be bound several
    /// times before its role is known.
    pub(super) fn add(&self, text: usize) -> Result<()> {
        /// An upper bound of an expression's size, including its slot in a vector.
        const PART: usize = 256;
        self.parts.set(self.parts.get() + 1);
        if self.parts.get() > EXPRESSION_PARTS {
            return Err(Error::limit("the expressions are too large")
                .help("select fewer columns, and use aliases less often in other expressions"));
        }
        self.bytes.set(self.bytes.get().saturating_add(PART).saturating_add(text));
        if self.bytes.get() > self.limit { Err(exceeded(self.limit)) } else { Ok(()) }
    }
}
