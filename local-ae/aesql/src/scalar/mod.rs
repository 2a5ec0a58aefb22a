//! Scalar functions and operators.
//!
//! Each is a [`Scalar`]: a name, an argument check that returns the result type, and an evaluation over
//! columns. One file per category of Analytics Engine's reference.

#![allow(
    clippy::unnecessary_wraps,
    reason = "infallible functions share one table with fallible ones"
)]

mod arithmetic;
mod bits;
mod compare;
mod convert;
mod dates;
mod function;
mod strings;

pub(crate) use function::{Argument, CheckResult, Scalar, ScalarCall};

const CATEGORIES: [&[Scalar]; 6] = [
    arithmetic::FUNCTIONS,
    bits::FUNCTIONS,
    compare::FUNCTIONS,
    convert::FUNCTIONS,
    dates::FUNCTIONS,
    strings::FUNCTIONS,
];

/// Aliases that Analytics Engine documents.
const ALIASES: &[(&str, &str)] =
    &[("ln", "log"), ("toLower", "lowerUTF8"), ("toUpper", "upperUTF8")];

/// Operators whose names look like functions.
const OPERATORS: &[&str] = &["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "NOT", "negate"];

/// Looks up an operator, or a function by its exact name.
pub(crate) fn operator(name: &str) -> Option<&'static Scalar> {
    CATEGORIES.into_iter().flatten().find(|function| function.name == name)
}

/// Looks up a function by its name or alias, in any case.
pub(crate) fn function(name: &str) -> Option<&'static Scalar> {
    let name = names().find(|known| known.eq_ignore_ascii_case(name))?;
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    operator(name)
}

/// The names of all functions, with aliases and without operators.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CATEGORIES
        .into_iter()
        .flatten()
        .map(|function| function.name)
        .chain(ALIASES.iter().map(|(alias, _)| *alias))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter(|name| !OPERATORS.contains(name))
}
