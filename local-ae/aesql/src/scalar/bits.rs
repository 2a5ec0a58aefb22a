//! Bit functions.

use super::function::{Argument, CheckResult, Scalar, ScalarCall, need_numbers};
use crate::column::Column;
use crate::error::{Error, Result};
use crate::value::Type;

pub(super) const FUNCTIONS: &[Scalar] = &[
    Scalar {
        name: "bitAnd",
        usage: "bitAnd(a, b)",
        arity: (2, 2),
        check: check_both,
        eval: |call| both(call, |a, b| a & b),
    },
    Scalar {
        name: "bitOr",
        usage: "bitOr(a, b)",
        arity: (2, 2),
        check: check_both,
        eval: |call| both(call, |a, b| a | b),
    },
    Scalar {
        name: "bitXor",
        usage: "bitXor(a, b)",
        arity: (2, 2),
        check: check_both,
        eval: |call| both(call, |a, b| a ^ b),
    },
    Scalar { name: "bitNot", usage: "bitNot(a)", arity: (1, 1), check: check_not, eval: eval_not },
    Scalar {
        name: "bitCount",
        usage: "bitCount(a)",
        arity: (1, 1),
        check: |args| need_numbers(args).map(|()| Type::UInt8),
        eval: eval_count,
    },
    Scalar {
        name: "bitTest",
        usage: "bitTest(a, n)",
        arity: (2, 2),
        check: check_test,
        eval: eval_test,
    },
    Scalar {
        name: "bitHammingDistance",
        usage: "bitHammingDistance(a, b)",
        arity: (2, 2),
        check: |args| check_both(args).map(|_| Type::UInt8),
        eval: eval_distance,
    },
    Scalar {
        name: "bitShiftLeft",
        usage: "bitShiftLeft(a, n)",
        arity: (2, 2),
        check: check_both,
        eval: |call| shift(call, |value, by| value << by),
    },
    Scalar {
        name: "bitShiftRight",
        usage: "bitShiftRight(a, n)",
        arity: (2, 2),
        check: check_both,
        eval: eval_shift_right,
    },
    Scalar {
        name: "bitRotateLeft",
        usage: "bitRotateLeft(a, n)",
        arity: (2, 2),
        check: check_both,
        eval: |call| rotate(call, 1),
    },
    Scalar {
        name: "bitRotateRight",
        usage: "bitRotateRight(a, n)",
        arity: (2, 2),
        check: check_both,
        eval: |call| rotate(call, -1),
    },
];

/// The wider of two integer types, signed if either is.
fn check_both(args: &[Argument]) -> CheckResult {
    match args {
        [a, b] if a.ty.is_integer() && b.ty.is_integer() => {
            Ok(Type::integer(a.ty.is_signed() || b.ty.is_signed(), a.ty.bytes().max(b.ty.bytes())))
        }
        [a, b] => {
            Err(format!("takes integers, not {} and {}; toUInt32() converts a double", a.ty, b.ty))
        }
        _ => Err("takes two integers".into()),
    }
}

fn check_not(args: &[Argument]) -> CheckResult {
    match args {
        [a] if a.ty.is_integer() => Ok(Type::integer(a.ty.is_signed(), a.ty.bytes())),
        [a] => Err(format!("takes an integer, not a {}; toUInt32() converts a double", a.ty)),
        _ => Err("takes one integer".into()),
    }
}

fn check_test(args: &[Argument]) -> CheckResult {
    match args {
        [a, n] if a.ty.is_number() && n.ty.is_integer() => Ok(Type::UInt8),
        _ => Err("takes a number and the position of a bit".into()),
    }
}

fn both(call: &ScalarCall, f: impl Fn(i64, i64) -> i64) -> Result<Column> {
    let (a, b) = (call.column(0), call.column(1));
    call.ints(|row| call.ty.wrap(f(a.int(row), b.int(row))))
}

fn eval_not(call: &ScalarCall) -> Result<Column> {
    let a = call.column(0);
    call.ints(|row| call.ty.wrap(!a.int(row)))
}

/// The lowest `bytes` bytes of an integer.
fn bits(value: i64, bytes: u8) -> u64 {
    let unused = 64_u32.saturating_sub(u32::from(bytes) * 8);
    value.cast_unsigned() << unused >> unused
}

fn eval_count(call: &ScalarCall) -> Result<Column> {
    let (a, ty) = call.arg(0);
    call.ints(|row| {
        let bits = if **ty == Type::Float64 {
            a.float(row).to_bits()
        } else {
            bits(a.int(row), ty.bytes())
        };
        i64::from(bits.count_ones())
    })
}

fn eval_test(call: &ScalarCall) -> Result<Column> {
    let ((a, ty), n) = (call.arg(0), call.column(1));
    let width = i64::from(ty.bytes()) * 8;
    call.try_ints(|row| {
        // The reference also passes doubles; for these, the integer part's bits count.
        #[expect(clippy::cast_possible_truncation, reason = "drops the fraction")]
        let value = if **ty == Type::Float64 { a.float(row) as i64 } else { a.int(row) };
        match n.int(row) {
            n if (0..width).contains(&n) => Ok(value >> n & 1),
            n => Err(Error::failed(format!("a {ty} has no bit {n}"))),
        }
    })
}

fn eval_distance(call: &ScalarCall) -> Result<Column> {
    let (a, b) = (call.column(0), call.column(1));
    call.ints(|row| i64::from((a.int(row) ^ b.int(row)).count_ones()))
}

/// Shifts by `n` bits; 0 if `n` is at least the type's width.
fn shift(call: &ScalarCall, f: impl Fn(i64, i64) -> i64) -> Result<Column> {
    let (a, n) = (call.column(0), call.column(1));
    let width = i64::from(call.ty.bytes()) * 8;
    call.try_ints(|row| match n.int(row) {
        ..0 => Err(Error::failed("the number of positions to shift by is negative")),
        n if n >= width => Ok(0),
        n => Ok(call.ty.wrap(f(call.ty.wrap(a.int(row)), n))),
    })
}

fn eval_shift_right(call: &ScalarCall) -> Result<Column> {
    if call.ty.is_signed() {
        return shift(call, |value, by| value >> by);
    }
    shift(call, |value, by| (value.cast_unsigned() >> by).cast_signed())
}

/// Rotates to the left, or to the right if `direction` is -1.
fn rotate(call: &ScalarCall, direction: i64) -> Result<Column> {
    let (a, n) = (call.column(0), call.column(1));
    let bytes = call.ty.bytes();
    let width = i64::from(bytes) * 8;
    call.ints(|row| {
        let value = bits(a.int(row), bytes);
        let rotated = match (n.int(row).rem_euclid(width) * direction).rem_euclid(width) {
            0 => value,
            by => value << by | value >> (width - by),
        };
        call.ty.wrap(rotated.cast_signed())
    })
}
