//! Functions and operators of one row's values.
//!
//! Each is a [`Scalar`]: a name, a check of its arguments that returns the type of the result, and its evaluation
//! over columns. One file for each kind, as in Analytics Engine's reference.

#![allow(
    clippy::unnecessary_wraps,
    reason = "those that cannot fail stand in one table with others"
)]

mod arithmetic;
mod bits;
mod compare;
mod convert;
mod dates;
mod function;
mod strings;

pub(crate) use function::{Call, Checked, Given, Scalar};

const GROUPS: [&[Scalar]; 6] = [
    arithmetic::FUNCTIONS,
    bits::FUNCTIONS,
    compare::FUNCTIONS,
    convert::FUNCTIONS,
    dates::FUNCTIONS,
    strings::FUNCTIONS,
];

/// Other names that are documented.
const ALIASES: &[(&str, &str)] =
    &[("ln", "log"), ("toLower", "lowerUTF8"), ("toUpper", "upperUTF8")];

/// What has a name here, but is written as an operator.
const OPERATORS: &[&str] = &["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "NOT", "negate"];

/// The operator of that name.
pub(crate) fn operator(name: &str) -> Option<&'static Scalar> {
    GROUPS.into_iter().flatten().find(|function| function.name == name)
}

/// The function of that name, in whatever case.
pub(crate) fn function(name: &str) -> Option<&'static Scalar> {
    let name = names().find(|known| known.eq_ignore_ascii_case(name))?;
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    operator(name)
}

/// The names of all functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    GROUPS
        .into_iter()
        .flatten()
        .map(|function| function.name)
        .chain(ALIASES.iter().map(|(alias, _)| *alias))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter(|name| !OPERATORS.contains(name))
}
