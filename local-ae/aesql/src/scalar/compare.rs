//! Comparisons, pattern matching and NOT.

use std::cmp::Ordering;

use super::function::{Argument, CheckResult, Scalar, ScalarCall, need_texts, wide};
use crate::column::Column;
use crate::error::{Error, Result};
use crate::value::{Type, Value};

pub(super) const FUNCTIONS: &[Scalar] = &[
    comparison("=", |call| compare(call, false, Ordering::is_eq)),
    comparison("!=", |call| compare(call, true, Ordering::is_ne)),
    comparison("<", |call| compare(call, false, Ordering::is_lt)),
    comparison("<=", |call| compare(call, false, Ordering::is_le)),
    comparison(">", |call| compare(call, false, Ordering::is_gt)),
    comparison(">=", |call| compare(call, false, Ordering::is_ge)),
    pattern("LIKE", |call| like(call, false, false)),
    pattern("NOT LIKE", |call| like(call, true, false)),
    pattern("ILIKE", |call| like(call, false, true)),
    pattern("NOT ILIKE", |call| like(call, true, true)),
    Scalar { name: "NOT", usage: "NOT condition", arity: (1, 1), check: check_not, eval: eval_not },
];

const fn comparison(name: &'static str, eval: fn(&ScalarCall) -> Result<Column>) -> Scalar {
    Scalar { name, usage: "two values", arity: (2, 2), check: check_comparison, eval }
}

const fn pattern(name: &'static str, eval: fn(&ScalarCall) -> Result<Column>) -> Scalar {
    Scalar { name, usage: "string LIKE 'pattern%'", arity: (2, 2), check: check_like, eval }
}

fn check_comparison(args: &[Argument]) -> CheckResult {
    let [a, b] = args else { return Err("takes two values".into()) };
    let (a, b) = (a.ty, b.ty);
    let seconds = |a: &Type, b: &Type| matches!(a, Type::DateTime(_)) && b.is_number();
    let comparable = a.is_number() && b.is_number()
        || a.is_date() && b.is_date()
        || seconds(a, b)
        || seconds(b, a)
        || (a, b) == (&Type::String, &Type::String);
    if comparable { Ok(Type::UInt8) } else { Err(format!("does not compare {a} and {b}")) }
}

fn check_like(args: &[Argument]) -> CheckResult {
    need_texts(args)?;
    if let [_, Argument { literal: Some(Value::Text(pattern)), .. }] = args {
        ends_well(pattern)?;
    }
    Ok(Type::UInt8)
}

fn check_not(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { ty: Type::Bool, .. }] => Ok(Type::Bool),
        [a] if a.ty.is_integer() => Ok(Type::UInt8),
        [a] => Err(format!("takes a condition, not a {}", a.ty)),
        _ => Err("takes one condition".into()),
    }
}

fn eval_not(call: &ScalarCall) -> Result<Column> {
    let a = call.column(0);
    call.bools(|row| a.int(row) == 0)
}

/// Compares; `unordered` is the result if either value is NaN.
fn compare(call: &ScalarCall, unordered: bool, holds: fn(Ordering) -> bool) -> Result<Column> {
    let ((a, a_type), (b, b_type)) = (call.arg(0), call.arg(1));
    // A Date that is compared with a DateTime stands for its midnight in UTC.
    let scale = |ty: &Type, other: &Type| match (ty, other) {
        (Type::Date, Type::DateTime(_)) => 86_400,
        _ => 1,
    };
    let (a_scale, b_scale) = (scale(a_type, b_type), scale(b_type, a_type));
    match (a_type, b_type) {
        (Type::String, _) => call.ints_of_two_texts(|a, b| holds(a.cmp(b)).into()),
        (Type::Float64, Type::Float64) => {
            call.bools(|row| a.float(row).partial_cmp(&b.float(row)).map_or(unordered, holds))
        }
        (Type::Float64, _) => call.bools(|row| {
            compare_float(a.float(row), wide(b, b_type, row)).map_or(unordered, holds)
        }),
        (_, Type::Float64) => call.bools(|row| {
            compare_float(b.float(row), wide(a, a_type, row))
                .map_or(unordered, |ordering| holds(ordering.reverse()))
        }),
        (Type::UInt64, _) | (_, Type::UInt64) => {
            call.bools(|row| holds(wide(a, a_type, row).cmp(&wide(b, b_type, row))))
        }
        _ => call.bools(|row| holds((a.int(row) * a_scale).cmp(&(b.int(row) * b_scale)))),
    }
}

/// Compares exactly: a conversion of the integer to a float would round it.
fn compare_float(float: f64, integer: i128) -> Option<Ordering> {
    /// Outside the range of 64-bit integers, signed or not.
    const BEYOND: f64 = 7e19;
    if float.is_nan() {
        return None;
    }
    let whole = float.clamp(-BEYOND, BEYOND).floor();
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
    let ordering = (whole as i128).cmp(&integer);
    Some(ordering.then(if float > whole { Ordering::Greater } else { Ordering::Equal }))
}

fn like(call: &ScalarCall, negated: bool, ignore_case: bool) -> Result<Column> {
    let texts = call.column(0);
    let (count, longest) = match texts {
        Column::Texts(texts) => (texts.pool.len().min(call.rows), texts.longest()),
        other => (1, other.text(0).len()),
    };
    // In the worst case, the pattern is matched against the text from each character on.
    let compile = |pattern: &str, texts: usize| {
        let all = texts.saturating_mul(longest).saturating_mul(pattern.len().min(longest));
        call.budget.spend(all / 16)?;
        Pattern::new(pattern, ignore_case)
    };
    if let Column::Same(Value::Text(pattern)) = call.column(1) {
        let pattern = compile(pattern, count)?;
        return call.ints_of_text(|text| Ok((pattern.matches(text) != negated).into()));
    }
    let patterns = call.column(1);
    call.try_ints(|row| {
        Ok((compile(patterns.text(row), 1)?.matches(texts.text(row)) != negated).into())
    })
}

/// An element of a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
}

struct Pattern {
    parts: Vec<Part>,
    ignore_case: bool,
}

fn ends_well(pattern: &str) -> std::result::Result<(), String> {
    let backslashes = pattern.chars().rev().take_while(|c| *c == '\\').count();
    if backslashes % 2 == 0 { Ok(()) } else { Err("takes no pattern that ends in \\".into()) }
}

impl Pattern {
    fn new(pattern: &str, ignore_case: bool) -> Result<Self> {
        ends_well(pattern).map_err(|message| Error::failed(format!("LIKE {message}")))?;
        let mut parts = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' => Part::Any,
                '_' => Part::One,
                // Before any other character, a backslash is literal.
                '\\' => Part::Char(
                    chars.next_if(|next| matches!(next, '%' | '_' | '\\')).unwrap_or('\\'),
                ),
                c => Part::Char(c),
            });
        }
        Ok(Self { parts, ignore_case })
    }

    /// Backtracks only to the last `%`: the parts before it have their earliest match, and a later match would
    /// leave less text for the rest.
    fn matches(&self, text: &str) -> bool {
        let (mut text, mut part) = (text, 0);
        let mut last_any: Option<(&str, usize)> = None;
        loop {
            let mut rest = text.chars();
            let one = match (self.parts.get(part), rest.next()) {
                (Some(Part::Any), _) => {
                    part += 1;
                    last_any = Some((text, part));
                    continue;
                }
                (None, None) => return true,
                (Some(Part::One), Some(_)) => true,
                (Some(Part::Char(wanted)), Some(c)) => self.equal(*wanted, c),
                _ => false,
            };
            if one {
                (text, part) = (rest.as_str(), part + 1);
                continue;
            }
            // Retry with one more character for the last `%`.
            let Some((from, after)) = last_any else { return false };
            let mut rest = from.chars();
            if rest.next().is_none() {
                return false;
            }
            (text, part) = (rest.as_str(), after);
            last_any = Some((text, after));
        }
    }

    fn equal(&self, a: char, b: char) -> bool {
        a == b || self.ignore_case && a.to_lowercase().eq(b.to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(text: &str, pattern: &str) -> bool {
        Pattern::new(pattern, false).unwrap().matches(text)
    }

    #[test]
    fn patterns_match_as_documented() {
        for (text, pattern) in [
            ("error: x", "error%"),
            ("a.jpg", "%.jpg"),
            ("latest", "%test%"),
            ("logab", "log__"),
            ("aXbXc", "a%X%c"),
            ("aab", "%ab"),
            ("", "%"),
            ("", ""),
            ("é", "_"),
            ("x\ny", "x%y"),
            ("a%b", "a\\%b"),
            ("a\\b", "a\\b"),
        ] {
            assert!(like(text, pattern), "{text} LIKE {pattern}");
        }
        for (text, pattern) in [("a", ""), ("a", "A"), ("", "_"), ("ab", "a"), ("ab", "a\\b")] {
            assert!(!like(text, pattern), "{text} LIKE {pattern}");
        }
        assert!(Pattern::new("AÉ%", true).unwrap().matches("aéB"));
        assert!(Pattern::new("\\", true).is_err());
    }

    #[test]
    fn compares_a_float_with_an_integer_exactly() {
        let of = compare_float;
        assert_eq!(of(9_007_199_254_740_992.0, 9_007_199_254_740_993), Some(Ordering::Less));
        assert_eq!(of(1.5, 1), Some(Ordering::Greater));
        assert_eq!(of(-0.5, 0), Some(Ordering::Less));
        assert_eq!(of(f64::INFINITY, i128::from(u64::MAX)), Some(Ordering::Greater));
        assert_eq!(of(f64::NAN, 0), None);
    }
}
