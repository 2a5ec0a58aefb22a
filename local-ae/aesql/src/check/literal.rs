//! Literals, and IN lists of literals.

use std::collections::HashSet;
use std::sync::Arc;

use sqlparser::ast;

use super::operands::{UNITS, check_combination};
use super::refusal::{absent, refused};
use crate::error::{Error, Location, Result};
use crate::plan::{Expr, InList, Node};
use crate::time::Unit;
use crate::value::{Type, Value};

pub(super) fn literal(value: &ast::Value, at: Option<Location>) -> Result<Expr> {
    match value {
        ast::Value::Number(text, false) => number(text, false, at),
        ast::Value::SingleQuotedString(text) => {
            let node = Node::Literal(Value::Text(text.as_str().into()));
            Ok(Expr { node, ty: Type::String, at })
        }
        ast::Value::Boolean(value) => {
            let node = Node::Literal(Value::Int(i64::from(*value)));
            Ok(Expr { node, ty: Type::Bool, at })
        }
        ast::Value::Null => {
            let help = "there is no NULL: an unset column is '' or 0";
            Err(refused("NULL", help, at))
        }
        other => Err(refused(&format!("the literal {other}"), "strings have single quotes", at)),
    }
}

pub(super) fn number(text: &str, negative: bool, at: Option<Location>) -> Result<Expr> {
    let wrong = || Error::refused(format!("{text} is not a number")).at(at);
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') || text.contains('_') {
        return Err(wrong());
    }
    let int = text.parse::<i128>().ok().map(|int| if negative { -int } else { int });
    if let Some(int) = int
        && let Some(ty) = Type::of_integer(int)
    {
        #[expect(clippy::cast_possible_truncation, reason = "the bits of an unsigned integer")]
        let value = Value::Int(int as i64);
        return Ok(Expr { node: Node::Literal(value), ty, at });
    }
    let float: f64 = text.parse().map_err(|_| wrong())?;
    if !float.is_finite() {
        return Err(wrong());
    }
    let value = Value::Float(if negative { -float } else { float });
    Ok(Expr { node: Node::Literal(value), ty: Type::Float64, at })
}

pub(super) fn interval(interval: &ast::Interval, at: Option<Location>) -> Result<Expr> {
    let ast::Interval {
        value,
        leading_field,
        leading_precision,
        last_field,
        fractional_seconds_precision,
    } = interval;
    let help = "write INTERVAL '1' DAY";
    let plain = leading_precision.is_none()
        && last_field.is_none()
        && fractional_seconds_precision.is_none();
    absent(plain, "this form of INTERVAL", help, at)?;
    let count = match &**value {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => text.parse::<i64>().ok(),
            _ => None,
        },
        _ => None,
    };
    let count = count.ok_or_else(|| {
        Error::refused("INTERVAL takes a whole number in quotes").help(help).at(at)
    })?;
    let unit = leading_field.as_ref().map(ToString::to_string).unwrap_or_default();
    let unit =
        Unit::named(&unit).ok_or_else(|| refused(&format!("INTERVAL in {unit}"), UNITS, at))?;
    Ok(Expr { node: Node::Literal(Value::Int(count)), ty: Type::Interval(unit), at })
}

/// Checks IN: its list may contain only literals that are comparable with the value.
pub(super) fn check_in(value: Expr, list: &[Expr], at: Option<Location>) -> Result<Node> {
    let unfit = |item: &Expr| {
        Error::refused(format!("IN does not compare {} and {}", value.ty, item.ty)).at(item.at)
    };
    let mut members = match value.ty {
        Type::String => InList::Texts(HashSet::new()),
        Type::Float64 => InList::Floats(HashSet::new()),
        _ => InList::Ints(HashSet::new()),
    };
    for item in list {
        check_combination(&value, item, "IN", at)?;
        let Some(literal) = item.literal() else {
            return Err(refused("IN with a non-literal value", "write x = a OR x = b", item.at));
        };
        let wide = |int: i64| match item.ty {
            Type::UInt64 => i128::from(int.cast_unsigned()),
            _ => i128::from(int),
        };
        match (&mut members, literal) {
            (InList::Texts(texts), Value::Text(text)) => {
                texts.insert(text.to_string());
            }
            (InList::Floats(floats), Value::Float(float)) => {
                floats.insert((float + 0.0).to_bits());
            }
            #[expect(clippy::cast_precision_loss, reason = "as ClickHouse does")]
            (InList::Floats(floats), Value::Int(int)) if item.ty.is_number() => {
                floats.insert((wide(*int) as f64).to_bits());
            }
            (InList::Ints(ints), Value::Int(int)) if comparable(&value.ty, &item.ty) => {
                // An item outside the range of the value's type never matches.
                let whole = wide(*int);
                let bits = match value.ty {
                    Type::UInt64 => u64::try_from(whole).map(u64::cast_signed).ok(),
                    _ => i64::try_from(whole).ok(),
                };
                ints.extend(bits);
            }
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
            (InList::Ints(ints), Value::Float(float)) if value.ty.is_number() => {
                let whole = *float as i128;
                let bits = match value.ty {
                    Type::UInt64 => u64::try_from(whole).map(u64::cast_signed).ok(),
                    _ => i64::try_from(whole).ok(),
                };
                ints.extend(bits.filter(|_| float.fract() == 0.0));
            }
            _ => return Err(unfit(item)),
        }
    }
    Ok(Node::In(Box::new(value), Arc::new(members)))
}

/// Whether IN may compare integers of the two types.
fn comparable(a: &Type, b: &Type) -> bool {
    a.is_number() && b.is_number()
        || a == b
        || matches!(a, Type::DateTime(_)) && (b.is_number() || matches!(b, Type::DateTime(_)))
}
