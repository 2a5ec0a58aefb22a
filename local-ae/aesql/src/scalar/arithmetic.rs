//! Arithmetic and mathematical functions.

use super::function::{Argument, CheckResult, Scalar, ScalarCall, need_numbers, wide};
use crate::column::Column;
use crate::error::{Error, Result};
use crate::time::{self, Unit};
use crate::value::Type;

pub(super) const FUNCTIONS: &[Scalar] = &[
    Scalar { name: "+", usage: "a + b", arity: (2, 2), check: check_plus, eval: eval_plus },
    Scalar { name: "-", usage: "a - b", arity: (2, 2), check: check_minus, eval: eval_minus },
    Scalar { name: "*", usage: "a * b", arity: (2, 2), check: check_times, eval: eval_times },
    Scalar { name: "/", usage: "a / b", arity: (2, 2), check: check_float, eval: eval_divide },
    Scalar { name: "%", usage: "a % b", arity: (2, 2), check: check_modulo, eval: eval_modulo },
    Scalar { name: "negate", usage: "-a", arity: (1, 1), check: check_negate, eval: eval_negate },
    Scalar {
        name: "intDiv",
        usage: "intDiv(a, b)",
        arity: (2, 2),
        check: check_int_div,
        eval: eval_int_div,
    },
    Scalar {
        name: "log",
        usage: "log(x)",
        arity: (1, 1),
        check: check_float,
        eval: |call| float_of(call, f64::ln),
    },
    Scalar {
        name: "pow",
        usage: "pow(x, y)",
        arity: (2, 2),
        check: check_float,
        eval: |call| float_of_two(call, f64::powf),
    },
    Scalar {
        name: "round",
        usage: "round(x[, digits])",
        arity: (1, 2),
        check: check_round,
        eval: |call| round(call, Rounding::Nearest),
    },
    Scalar {
        name: "floor",
        usage: "floor(x[, digits])",
        arity: (1, 2),
        check: check_round,
        eval: |call| round(call, Rounding::Down),
    },
    Scalar {
        name: "ceil",
        usage: "ceil(x[, digits])",
        arity: (1, 2),
        check: check_round,
        eval: |call| round(call, Rounding::Up),
    },
];

fn pair<'a>(args: &[Argument<'a>]) -> std::result::Result<(&'a Type, &'a Type), String> {
    match args {
        [a, b] => Ok((a.ty, b.ty)),
        _ => Err("takes two arguments".into()),
    }
}

fn check_plus(args: &[Argument]) -> CheckResult {
    match pair(args)? {
        (date, Type::Interval(unit)) | (Type::Interval(unit), date) if date.is_date() => {
            Ok(plus_interval(date, *unit))
        }
        (date, number) | (number, date) if date.is_date() && number.is_number() => Ok(date.clone()),
        (a, b) => check_sum(a, b, a.is_signed() || b.is_signed()),
    }
}

fn plus_interval(date: &Type, unit: Unit) -> Type {
    match (date, unit) {
        (Type::Date, Unit::Second | Unit::Minute | Unit::Hour) => Type::DateTime(None),
        _ => date.clone(),
    }
}

fn check_minus(args: &[Argument]) -> CheckResult {
    match pair(args)? {
        (Type::DateTime(_), Type::DateTime(_)) | (Type::Date, Type::Date) => Ok(Type::Int32),
        (date, Type::Interval(unit)) if date.is_date() => Ok(plus_interval(date, *unit)),
        (date, number) if date.is_date() && number.is_number() => Ok(date.clone()),
        (a, b) => check_sum(a, b, true),
    }
}

fn check_times(args: &[Argument]) -> CheckResult {
    let (a, b) = pair(args)?;
    check_sum(a, b, a.is_signed() || b.is_signed())
}

/// The type of a sum, difference or product: the next wider one, as in `ClickHouse`.
fn check_sum(a: &Type, b: &Type, signed: bool) -> CheckResult {
    check_numbers(a, b)?;
    Ok(match (a, b) {
        (Type::Float64, _) | (_, Type::Float64) => Type::Float64,
        _ => Type::integer(signed, a.bytes().max(b.bytes()) * 2),
    })
}

fn check_numbers(a: &Type, b: &Type) -> std::result::Result<(), String> {
    if a.is_number() && b.is_number() { Ok(()) } else { Err(format!("does not take {a} and {b}")) }
}

fn check_float(args: &[Argument]) -> CheckResult {
    need_numbers(args).map(|()| Type::Float64)
}

fn check_modulo(args: &[Argument]) -> CheckResult {
    let (a, b) = pair(args)?;
    check_numbers(a, b)?;
    Ok(match (a, b) {
        (Type::Float64, _) | (_, Type::Float64) => Type::Float64,
        _ if a.is_signed() => Type::integer(true, b.bytes() * 2),
        _ => Type::integer(false, b.bytes()),
    })
}

fn check_int_div(args: &[Argument]) -> CheckResult {
    let (a, b) = pair(args)?;
    check_numbers(a, b)?;
    Ok(Type::integer(a.is_signed() || b.is_signed(), a.bytes()))
}

fn check_negate(args: &[Argument]) -> CheckResult {
    need_numbers(args)?;
    Ok(match args {
        [Argument { ty, .. }] if ty.is_signed() => (*ty).clone(),
        [Argument { ty, .. }] => Type::integer(true, ty.bytes() * 2),
        _ => return Err("takes one number".into()),
    })
}

fn check_round(args: &[Argument]) -> CheckResult {
    need_numbers(args)?;
    match args {
        [_, digits] if !digits.ty.is_integer() => Err("takes an integer number of digits".into()),
        [x, ..] => Ok(x.ty.clone()),
        [] => Err("takes a number".into()),
    }
}

fn float_of(call: &ScalarCall, f: impl Fn(f64) -> f64) -> Result<Column> {
    let x = call.floats(0)?;
    call.new_floats(|row| f(x.float(row)))
}

fn float_of_two(call: &ScalarCall, f: impl Fn(f64, f64) -> f64) -> Result<Column> {
    let (x, y) = (call.floats(0)?, call.floats(1)?);
    call.new_floats(|row| f(x.float(row), y.float(row)))
}

fn int_of_two(call: &ScalarCall, f: impl Fn(i64, i64) -> i64) -> Result<Column> {
    let (x, y) = (call.column(0), call.column(1));
    call.ints(|row| call.ty.wrap(f(x.int(row), y.int(row))))
}

/// Moves a date by an interval or by a number: seconds for a `DateTime`, days for a Date.
fn shift(call: &ScalarCall, date: usize, by: usize, sign: i64) -> Result<Column> {
    let (dates, ty) = call.arg(date);
    let zone = match ty {
        Type::DateTime(zone) => zone.as_ref(),
        _ => None,
    };
    let (counts, count_type) = call.arg(by);
    let float = **count_type == Type::Float64;
    call.ints(|row| {
        #[expect(clippy::cast_possible_truncation, reason = "drops the fraction")]
        let count = if float { counts.float(row) as i64 } else { counts.int(row) };
        let (at, count) = (dates.int(row), count.wrapping_mul(sign));
        call.ty.wrap(match (ty, count_type, call.ty) {
            (Type::DateTime(_), Type::Interval(unit), _) => time::plus(at, count, *unit, zone),
            (_, Type::Interval(unit), Type::Date) => time::plus_days(at, count, *unit),
            (_, Type::Interval(unit), _) => time::plus(at * 86_400, count, *unit, None),
            _ => at.wrapping_add(count),
        })
    })
}

fn eval_plus(call: &ScalarCall) -> Result<Column> {
    match call.ty {
        Type::Float64 => float_of_two(call, |x, y| x + y),
        ty if !ty.is_date() => int_of_two(call, i64::wrapping_add),
        _ if call.arg(0).1.is_date() => shift(call, 0, 1, 1),
        _ => shift(call, 1, 0, 1),
    }
}

fn eval_minus(call: &ScalarCall) -> Result<Column> {
    match call.ty {
        Type::Float64 => float_of_two(call, |x, y| x - y),
        ty if !ty.is_date() => int_of_two(call, i64::wrapping_sub),
        _ => shift(call, 0, 1, -1),
    }
}

fn eval_times(call: &ScalarCall) -> Result<Column> {
    match call.ty {
        Type::Float64 => float_of_two(call, |x, y| x * y),
        _ => int_of_two(call, i64::wrapping_mul),
    }
}

fn eval_divide(call: &ScalarCall) -> Result<Column> {
    float_of_two(call, |x, y| x / y)
}

fn eval_negate(call: &ScalarCall) -> Result<Column> {
    if *call.ty == Type::Float64 {
        return float_of(call, |x| -x);
    }
    let x = call.column(0);
    call.ints(|row| call.ty.wrap(x.int(row).wrapping_neg()))
}

fn divided_by_zero() -> Error {
    Error::failed("division by zero").help("guard it, as in if(b = 0, 0, intDiv(a, b))")
}

fn eval_modulo(call: &ScalarCall) -> Result<Column> {
    if *call.ty == Type::Float64 {
        return float_of_two(call, |x, y| x % y);
    }
    divide(call, |a, b| a % b)
}

fn eval_int_div(call: &ScalarCall) -> Result<Column> {
    if *call.arg(0).1 != Type::Float64 && *call.arg(1).1 != Type::Float64 {
        return divide(call, |a, b| a / b);
    }
    let (x, y) = (call.floats(0)?, call.floats(1)?);
    call.try_ints(|row| {
        let quotient = (x.float(row) / y.float(row)).trunc();
        #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
        if y.float(row) == 0.0 {
            Err(divided_by_zero())
        } else if quotient.abs() < 9.2e18 {
            Ok(call.ty.wrap(quotient as i64))
        } else {
            Err(Error::failed("the quotient does not fit a 64-bit integer"))
        }
    })
}

/// Divides integers; a divisor of 0 is an error.
fn divide(call: &ScalarCall, f: impl Fn(i128, i128) -> i128) -> Result<Column> {
    let ((x, x_type), (y, y_type)) = (call.arg(0), call.arg(1));
    call.try_ints(|row| {
        let divisor = wide(y, y_type, row);
        if divisor == 0 {
            return Err(divided_by_zero());
        }
        #[expect(clippy::cast_possible_truncation, reason = "it wraps")]
        let result = f(wide(x, x_type, row), divisor) as i64;
        Ok(call.ty.wrap(result))
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    /// Rounds half to even for a `Float64`, half away from 0 for an integer.
    Nearest,
    Down,
    Up,
}

fn round(call: &ScalarCall, rounding: Rounding) -> Result<Column> {
    let places = call.column(1);
    // A float's shortest decimal has fewer than 400 digits on either side of the point.
    let places = |row| i32::try_from(places.int(row).clamp(-400, 400)).unwrap_or(0);
    let (x, ty) = call.arg(0);
    if *call.ty == Type::Float64 {
        return call.new_floats(|row| round_float(x.float(row), places(row), rounding));
    }
    call.ints(|row| match places(row) {
        0.. => x.int(row),
        // The largest integer has 20 digits.
        ..-20 => 0,
        places => {
            let value = wide(x, ty, row);
            let scale = 10_i128.pow(places.unsigned_abs());
            let rounded = match rounding {
                Rounding::Down => value.div_euclid(scale),
                Rounding::Up => -(-value).div_euclid(scale),
                Rounding::Nearest => (value.abs() + scale / 2) / scale * value.signum(),
            };
            #[expect(clippy::cast_possible_truncation, reason = "it wraps")]
            call.ty.wrap((rounded * scale) as i64)
        }
    })
}

fn round_float(value: f64, places: i32, rounding: Rounding) -> f64 {
    let whole = |value: f64| match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    };
    let scale = 10_f64.powi(places.abs());
    match places {
        _ if !value.is_finite() => value,
        0 => whole(value),
        1.. if !(value * scale).is_finite() => value,
        1.. => whole(value * scale) / scale,
        _ if !scale.is_finite() => 0.0,
        _ => whole(value / scale) * scale,
    }
}
