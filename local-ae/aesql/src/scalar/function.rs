//! The definition of a scalar function, and access to its arguments.

use std::fmt;

use crate::column::Column;
use crate::error::Result;
use crate::limits::Budget;
use crate::memory::{Memory, TrackedVec};
use crate::value::{Type, Value};

/// A function or an operator.
pub(crate) struct Scalar {
    /// As spelled in Analytics Engine's reference.
    pub(crate) name: &'static str,
    /// The call's syntax, for error messages.
    pub(crate) usage: &'static str,
    /// The minimum and the maximum number of arguments.
    pub(crate) arity: (usize, usize),
    /// The result type, or an error message that continues the function's name: "takes a number, …".
    pub(crate) check: fn(&[Argument]) -> CheckResult,
    pub(crate) eval: fn(&ScalarCall) -> Result<Column>,
}

pub(crate) type CheckResult = std::result::Result<Type, String>;

/// An argument's type and, if it is a literal, its value.
pub(crate) struct Argument<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) literal: Option<&'a Value>,
}

/// The arguments and the context of one evaluation.
pub(crate) struct ScalarCall<'a> {
    pub(crate) args: &'a [(Column, &'a Type)],
    /// The result type.
    pub(crate) ty: &'a Type,
    pub(crate) rows: usize,
    /// The time of the evaluation in seconds since 1970.
    pub(crate) now: i64,
    pub(crate) budget: &'a Budget,
}

/// Takes the place of an omitted argument.
static ABSENT: (Column, &Type) = (Column::Same(Value::Int(0)), &Type::UInt8);

impl<'a> ScalarCall<'a> {
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

    pub(super) fn ints(&self, f: impl FnMut(usize) -> i64) -> Result<Column> {
        Column::ints(self.memory(), self.rows, (0..self.rows).map(f))
    }

    pub(super) fn try_ints(&self, f: impl FnMut(usize) -> Result<i64>) -> Result<Column> {
        Ok(Column::Ints(TrackedVec::try_new(self.memory(), self.rows, (0..self.rows).map(f))?))
    }

    /// A column of 1 and 0.
    pub(super) fn bools(&self, mut f: impl FnMut(usize) -> bool) -> Result<Column> {
        self.ints(|row| i64::from(f(row)))
    }

    pub(super) fn new_floats(&self, f: impl FnMut(usize) -> f64) -> Result<Column> {
        Column::floats(self.memory(), self.rows, (0..self.rows).map(f))
    }

    /// Computes an integer from each string of the first argument.
    pub(super) fn ints_of_text(&self, mut f: impl FnMut(&str) -> Result<i64>) -> Result<Column> {
        match self.column(0) {
            Column::Texts(texts) => Ok(Column::Ints(texts.each(self.memory(), f)?)),
            other => Ok(Column::Same(Value::Int(f(other.text(0))?))),
        }
    }

    /// Computes an integer from each row's first two arguments, both strings.
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

pub(super) fn need_texts(args: &[Argument]) -> std::result::Result<(), String> {
    match args.iter().find(|arg| *arg.ty != Type::String) {
        Some(arg) => Err(format!("takes a String, not a {}", arg.ty)),
        None => Ok(()),
    }
}

pub(super) fn need_numbers(args: &[Argument]) -> std::result::Result<(), String> {
    match args.iter().find(|arg| !arg.ty.is_number()) {
        Some(arg) => Err(format!("takes a number, not a {}", arg.ty)),
        None => Ok(()),
    }
}

/// A row's integer in a type that holds every `Int64` and every `UInt64`.
pub(super) fn wide(column: &Column, ty: &Type, row: usize) -> i128 {
    match ty {
        Type::UInt64 => i128::from(column.int(row).cast_unsigned()),
        _ => i128::from(column.int(row)),
    }
}
