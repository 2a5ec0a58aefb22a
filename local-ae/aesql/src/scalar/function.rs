//! The definition of a scalar function, and access to its arguments.

use std::fmt;

use crate::column::Column;
use crate::error::Result;
use crate::limits::Budget;
use crate::memory::{Held, Memory};
use crate::value::{Type, Value};

/// A function or an operator.
pub(crate) struct Scalar {
    /// As in the reference.
    pub(crate) name: &'static str,
    /// The call's syntax, for messages.
    pub(crate) usage: &'static str,
    /// The minimum and the maximum number of arguments.
    pub(crate) arity: (usize, usize),
    /// The result type, or the error, which is worded to follow the function's name.
    pub(crate) check: fn(&[Given]) -> Checked,
    pub(crate) eval: fn(&Call) -> Result<Column>,
}

pub(crate) type Checked = std::result::Result<Type, String>;

/// An argument in the check.
pub(crate) struct Given<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) literal: Option<&'a Value>,
}

/// A call in the evaluation.
pub(crate) struct Call<'a> {
    pub(crate) args: &'a [(Column, &'a Type)],
    /// The result type.
    pub(crate) ty: &'a Type,
    pub(crate) rows: usize,
    /// The time of the evaluation in seconds since 1970.
    pub(crate) now: i64,
    pub(crate) budget: &'a Budget,
}

/// In place of an omitted argument.
static ABSENT: (Column, &Type) = (Column::Same(Value::Int(0)), &Type::UInt8);

impl<'a> Call<'a> {
    pub(super) fn arg(&self, i: usize) -> &'a (Column, &'a Type) {
        self.args.get(i).unwrap_or(&ABSENT)
    }

    pub(super) fn column(&self, i: usize) -> &'a Column {
        &self.arg(i).0
    }

    pub(super) fn memory(&self) -> &'a Memory {
        &self.budget.memory
    }

    pub(super) fn floats(&self, i: usize) -> Result<Column> {
        let (column, ty) = self.arg(i);
        column.to_floats(self.memory(), ty)
    }

    /// A column of one integer per row.
    pub(super) fn ints(&self, f: impl FnMut(usize) -> i64) -> Result<Column> {
        Column::ints(self.memory(), self.rows, (0..self.rows).map(f))
    }

    pub(super) fn try_ints(&self, f: impl FnMut(usize) -> Result<i64>) -> Result<Column> {
        Ok(Column::Ints(Held::try_new(self.memory(), self.rows, (0..self.rows).map(f))?))
    }

    /// A column of one 1 or 0 per row.
    pub(super) fn bools(&self, mut f: impl FnMut(usize) -> bool) -> Result<Column> {
        self.ints(|row| i64::from(f(row)))
    }

    /// A column of one float per row.
    pub(super) fn new_floats(&self, f: impl FnMut(usize) -> f64) -> Result<Column> {
        Column::floats(self.memory(), self.rows, (0..self.rows).map(f))
    }

    /// A column of integers, each computed from the string in the first argument.
    pub(super) fn ints_of_text(&self, mut f: impl FnMut(&str) -> Result<i64>) -> Result<Column> {
        match self.column(0) {
            Column::Texts(texts) => Ok(Column::Ints(texts.each(self.memory(), f)?)),
            other => Ok(Column::Same(Value::Int(f(other.text(0))?))),
        }
    }

    /// A column of integers, each computed from the strings in the first two arguments.
    pub(super) fn ints_of_two_texts(&self, f: impl Fn(&str, &str) -> i64) -> Result<Column> {
        let (a, b) = (self.column(0), self.column(1));
        match (a, b) {
            (Column::Texts(texts), Column::Same(_)) => {
                Ok(Column::Ints(texts.each(self.memory(), |a| Ok(f(a, b.text(0))))?))
            }
            (Column::Same(_), Column::Texts(texts)) => {
                Ok(Column::Ints(texts.each(self.memory(), |b| Ok(f(a.text(0), b)))?))
            }
            _ => self.ints(|row| f(a.text(row), b.text(row))),
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Checks that every argument is a string.
pub(super) fn need_texts(args: &[Given]) -> std::result::Result<(), String> {
    match args.iter().find(|arg| *arg.ty != Type::String) {
        Some(arg) => Err(format!("takes a String, not a {}", arg.ty)),
        None => Ok(()),
    }
}

/// Checks that every argument is a number.
pub(super) fn need_numbers(args: &[Given]) -> std::result::Result<(), String> {
    match args.iter().find(|arg| !arg.ty.is_number()) {
        Some(arg) => Err(format!("takes a number, not a {}", arg.ty)),
        None => Ok(()),
    }
}

/// An integer of a column, as a type that holds every `Int64` and every `UInt64`.
pub(super) fn wide(column: &Column, ty: &Type, row: usize) -> i128 {
    match ty {
        Type::UInt64 => i128::from(column.int(row).cast_unsigned()),
        _ => i128::from(column.int(row)),
    }
}
