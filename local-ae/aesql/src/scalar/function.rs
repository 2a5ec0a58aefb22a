//! What a function of one row's values is, and how it gets its arguments.

use std::fmt;

use crate::column::Column;
use crate::error::Result;
use crate::limits::Budget;
use crate::memory::{Held, Memory};
use crate::value::{Type, Value};

/// A function or an operator.
pub(crate) struct Scalar {
    /// As it is documented.
    pub(crate) name: &'static str,
    /// How it is written, for messages.
    pub(crate) usage: &'static str,
    /// The least and the greatest number of arguments.
    pub(crate) arity: (usize, usize),
    /// The type of the result, or what is wrong with the arguments, worded to follow the name.
    pub(crate) check: fn(&[Given]) -> Checked,
    pub(crate) eval: fn(&Call) -> Result<Column>,
}

pub(crate) type Checked = std::result::Result<Type, String>;

/// An argument as it is checked.
pub(crate) struct Given<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) literal: Option<&'a Value>,
}

/// A call as it is evaluated.
pub(crate) struct Call<'a> {
    pub(crate) args: &'a [(Column, &'a Type)],
    /// The type of the result.
    pub(crate) ty: &'a Type,
    pub(crate) rows: usize,
    /// The time of the evaluation in seconds since 1970.
    pub(crate) now: i64,
    pub(crate) budget: &'a Budget,
}

/// Stands for an argument that was left out.
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

    /// A column of integers, one for each row.
    pub(super) fn ints(&self, f: impl FnMut(usize) -> i64) -> Result<Column> {
        Column::ints(self.memory(), self.rows, (0..self.rows).map(f))
    }

    pub(super) fn try_ints(&self, f: impl FnMut(usize) -> Result<i64>) -> Result<Column> {
        Ok(Column::Ints(Held::try_new(self.memory(), self.rows, (0..self.rows).map(f))?))
    }

    /// A column of 1 and 0.
    pub(super) fn bools(&self, mut f: impl FnMut(usize) -> bool) -> Result<Column> {
        self.ints(|row| i64::from(f(row)))
    }

    /// A column of floats, one for each row.
    pub(super) fn new_floats(&self, f: impl FnMut(usize) -> f64) -> Result<Column> {
        Column::floats(self.memory(), self.rows, (0..self.rows).map(f))
    }

    /// A column of integers, each computed of the string in the first argument.
    pub(super) fn ints_of_text(&self, mut f: impl FnMut(&str) -> Result<i64>) -> Result<Column> {
        match self.column(0) {
            Column::Texts(texts) => Ok(Column::Ints(texts.each(self.memory(), f)?)),
            other => Ok(Column::Same(Value::Int(f(other.text(0))?))),
        }
    }

    /// A column of integers, each computed of the strings in the first two arguments.
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

/// An integer of a column, wide enough for both signs of 64 bits.
pub(super) fn wide(column: &Column, ty: &Type, row: usize) -> i128 {
    match ty {
        Type::UInt64 => i128::from(column.int(row).cast_unsigned()),
        _ => i128::from(column.int(row)),
    }
}
