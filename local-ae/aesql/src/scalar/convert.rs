//! Conversions to integers.

use super::function::{Argument, CheckResult, Scalar, ScalarCall};
use crate::column::Column;
use crate::error::{Error, Result};
use crate::value::Type;

pub(super) const FUNCTIONS: &[Scalar] = &[
    Scalar {
        name: "toUInt8",
        usage: "toUInt8(x)",
        arity: (1, 1),
        check: |args| check(args, Type::UInt8),
        eval,
    },
    Scalar {
        name: "toUInt32",
        usage: "toUInt32(x)",
        arity: (1, 1),
        check: |args| check(args, Type::UInt32),
        eval,
    },
];

fn check(args: &[Argument], ty: Type) -> CheckResult {
    match args {
        [Argument { ty: Type::Interval(_) | Type::Array(_), .. }] => {
            Err("takes a number, a string or a date".into())
        }
        _ => Ok(ty),
    }
}

/// Truncates numbers to integers that wrap at the type's range; strings must consist of decimal digits.
fn eval(call: &ScalarCall) -> Result<Column> {
    let (x, from) = call.arg(0);
    match from {
        Type::String => call.ints_of_text(|text| match parse(text) {
            Some(number) => Ok(call.ty.wrap(number)),
            None => Err(Error::failed(format!("'{text}' is not a {}", call.ty))),
        }),
        Type::Float64 => call.try_ints(|row| {
            let float = x.float(row);
            if !float.is_finite() {
                return Err(Error::failed(format!("{float} is not a {}", call.ty)));
            }
            #[expect(clippy::cast_possible_truncation, reason = "drops the fraction")]
            Ok(if float.abs() < 9.2e18 { call.ty.wrap(float as i64) } else { 0 })
        }),
        _ => call.ints(|row| call.ty.wrap(x.int(row))),
    }
}

/// Parses decimal digits; wraps on overflow.
fn parse(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() {
        return None;
    }
    digits.bytes().try_fold(0_i64, |number, digit| {
        let place = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        Some(number.wrapping_mul(10).wrapping_add(place))
    })
}
