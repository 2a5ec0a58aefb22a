//! Checks of operands and arguments.

use crate::error::{Error, Location, Result};
use crate::plan::{Expr, Node};
use crate::scalar::Argument;
use crate::value::Type;

pub(super) const UNITS: &str = "the units are YEAR, MONTH, DAY, HOUR, MINUTE and SECOND";

pub(super) fn arguments_of(args: &[Expr]) -> Vec<Argument<'_>> {
    args.iter().map(|arg| Argument { ty: &arg.ty, literal: arg.literal() }).collect()
}

/// Refuses the combinations of types that Analytics Engine is known to refuse.
pub(super) fn check_combination(
    left: &Expr,
    right: &Expr,
    operator: &str,
    at: Option<Location>,
) -> Result<()> {
    let (Some(a), Some(b)) = (cloud_type(left), cloud_type(right)) else { return Ok(()) };
    let help = match (a, b) {
        ("DateTime", "String") | ("String", "DateTime") => {
            "write toDateTime('2026-01-02 03:04:05')"
        }
        ("Boolean", "Integer" | "Double") | ("Integer" | "Double", "Boolean")
            if ["+", "-", "*", "/", "%"].contains(&operator) =>
        {
            "write countIf(condition), sumIf(x, condition) or if(condition, x, 0)"
        }
        _ => return Ok(()),
    };
    let message = format!("cannot combine the {a} and {b} types with the {operator} operator");
    Err(Error::refused(message).help(help).at(at))
}

/// The name of the type in Analytics Engine, which has fewer types than `ClickHouse`. `None` if the type is not
/// certain: a subquery's column may be a condition or a number.
pub(super) fn cloud_type(expr: &Expr) -> Option<&'static str> {
    const CONDITIONS: &[&str] = &[
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "LIKE",
        "NOT LIKE",
        "ILIKE",
        "NOT ILIKE",
        "NOT",
        "empty",
        "startsWith",
        "endsWith",
    ];
    match (&expr.ty, &expr.node) {
        (Type::Float64, _) => Some("Double"),
        (Type::String, _) => Some("String"),
        (Type::DateTime(_), _) => Some("DateTime"),
        (Type::Bool, _) | (_, Node::And(_) | Node::Or(_) | Node::In(..)) => Some("Boolean"),
        (Type::UInt8, Node::Call(function, _)) if CONDITIONS.contains(&function.name) => {
            Some("Boolean")
        }
        (Type::UInt8, Node::If(parts)) => {
            let [_, then, _] = &**parts;
            cloud_type(then)
        }
        (Type::UInt8, Node::Column(_)) => None,
        (ty, _) if ty.is_integer() => Some("Integer"),
        _ => None,
    }
}

pub(super) fn check_condition(name: &str, condition: &Expr) -> Result<()> {
    if matches!(condition.ty, Type::UInt8 | Type::Bool) {
        return Ok(());
    }
    Err(Error::refused(format!("{name} takes a condition, not a {}", condition.ty))
        .help("compare it, as in x != 0")
        .at(condition.at))
}

/// The cloud's error for `count(*)` and `count(x)`.
pub(super) fn count_of(help: &str, at: Option<Location>) -> Error {
    Error::refused("COUNT() function must have 0 arguments: 1").help(help).at(at)
}
