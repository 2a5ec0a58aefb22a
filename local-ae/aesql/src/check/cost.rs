//! The limits on a statement's size, and its warnings.

use std::cell::{Cell, RefCell};

use crate::error::{Error, Result};
use crate::limits::EXPRESSION_PARTS;
use crate::memory::exceeded;

/// What the parts of expressions, and the columns, have come to.
pub(crate) struct Cost {
    /// Of one statement.
    pub(super) parts: Cell<usize>,
    /// Of all statements of a text.
    pub(super) bytes: Cell<usize>,
    limit: usize,
    /// Of one statement.
    pub(super) warnings: RefCell<Vec<Error>>,
}

impl Cost {
    /// Nothing so far, of that many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { parts: Cell::new(0), bytes: Cell::new(0), limit, warnings: RefCell::default() }
    }

    /// Notes a warning. An expression may be bound more than once: each place has one.
    pub(super) fn warn(&self, warning: Error) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Counts a part with that much text. Parts that are not kept count, too: an expression is bound
    /// several times until it is known where it belongs.
    pub(super) fn add(&self, text: usize) -> Result<()> {
        /// More than an expression takes up with its place in a vector.
        const PART: usize = 256;
        self.parts.set(self.parts.get() + 1);
        if self.parts.get() > EXPRESSION_PARTS {
            return Err(Error::limit("the expressions are too large")
                .help("name fewer columns, and what names others less often"));
        }
        self.bytes.set(self.bytes.get().saturating_add(PART).saturating_add(text));
        if self.bytes.get() > self.limit { Err(exceeded(self.limit)) } else { Ok(()) }
    }
}
