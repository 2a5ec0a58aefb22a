//! String functions and encodings.

use std::fmt::Write;

use super::function::{Argument, CheckResult, Scalar, ScalarCall, need_texts};
use crate::column::{Column, StringColumn, StringPool, check_string};
use crate::error::{Error, Result};
use crate::memory::TrackedVec;
use crate::value::{Type, Value};

pub(super) const FUNCTIONS: &[Scalar] = &[
    Scalar {
        name: "length",
        usage: "length(string)",
        arity: (1, 1),
        check: |args| need_texts(args).map(|()| Type::UInt64),
        eval: |call| call.ints_of_text(|text| Ok(int(text.chars().count()))),
    },
    Scalar {
        name: "empty",
        usage: "empty(string)",
        arity: (1, 1),
        check: check_test,
        eval: |call| call.ints_of_text(|text| Ok(text.is_empty().into())),
    },
    map("lower", |call| texts_of(call, |text, out| out.push_str(&text.to_ascii_lowercase()))),
    map("upper", |call| texts_of(call, |text, out| out.push_str(&text.to_ascii_uppercase()))),
    map("lowerUTF8", |call| texts_of(call, |text, out| out.push_str(&text.to_lowercase()))),
    map("upperUTF8", |call| texts_of(call, |text, out| out.push_str(&text.to_uppercase()))),
    Scalar {
        name: "startsWith",
        usage: "startsWith(string, prefix)",
        arity: (2, 2),
        check: check_test,
        eval: |call| call.ints_of_two_texts(|text, prefix| text.starts_with(prefix).into()),
    },
    Scalar {
        name: "endsWith",
        usage: "endsWith(string, suffix)",
        arity: (2, 2),
        check: check_test,
        eval: |call| call.ints_of_two_texts(|text, suffix| text.ends_with(suffix).into()),
    },
    Scalar {
        name: "position",
        usage: "position(needle IN haystack)",
        arity: (2, 2),
        check: |args| need_texts(args).map(|()| Type::UInt64),
        eval: |call| call.ints_of_two_texts(position),
    },
    Scalar {
        name: "substring",
        usage: "substring(string, offset[, length])",
        arity: (2, 3),
        check: check_substring,
        eval: eval_substring,
    },
    Scalar {
        name: "format",
        usage: "format('… {} …', value, …)",
        arity: (2, usize::MAX),
        check: check_format,
        eval: eval_format,
    },
    Scalar {
        name: "hex",
        usage: "hex(x)",
        arity: (1, 1),
        check: check_encode,
        eval: |call| encode(call, |byte, out| write!(out, "{byte:02X}")),
    },
    Scalar {
        name: "bin",
        usage: "bin(x)",
        arity: (1, 1),
        check: check_encode,
        eval: |call| encode(call, |byte, out| write!(out, "{byte:08b}")),
    },
];

const fn map(name: &'static str, eval: fn(&ScalarCall) -> Result<Column>) -> Scalar {
    Scalar { name, usage: "one string", arity: (1, 1), check: check_map, eval }
}

fn check_map(args: &[Argument]) -> CheckResult {
    need_texts(args).map(|()| Type::String)
}

fn check_test(args: &[Argument]) -> CheckResult {
    need_texts(args).map(|()| Type::UInt8)
}

fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Maps each distinct string of the first argument to a string.
fn texts_of(call: &ScalarCall, f: impl Fn(&str, &mut String)) -> Result<Column> {
    let mut pool = StringPool::new(call.memory())?;
    let mut out = String::new();
    let mut make = |text: &str| {
        out.clear();
        f(text, &mut out);
        pool.push(&out)
    };
    let ids = match call.column(0) {
        Column::Texts(texts) => texts.each(call.memory(), make)?,
        other => {
            let id = make(other.text(0))?;
            TrackedVec::new(call.memory(), call.rows, std::iter::repeat_n(id, call.rows))?
        }
    };
    Ok(Column::Texts(StringColumn::new(pool, ids)))
}

/// Computes one string per row.
pub(super) fn texts_by_row(
    call: &ScalarCall,
    mut f: impl FnMut(usize, &mut String) -> Result<()>,
) -> Result<Column> {
    let mut pool = StringPool::new(call.memory())?;
    let mut out = String::new();
    let make = |row| {
        out.clear();
        f(row, &mut out)?;
        pool.push(&out)
    };
    let ids = TrackedVec::try_new(call.memory(), call.rows, (0..call.rows).map(make))?;
    Ok(Column::Texts(StringColumn::new(pool, ids)))
}

/// The needle's offset in bytes, counted from 1 as in `ClickHouse`; 0 if it does not occur.
fn position(needle: &str, haystack: &str) -> i64 {
    haystack.find(needle).map_or(0, |at| int(at + 1))
}

fn check_substring(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { ty: Type::String, .. }, numbers @ ..]
            if numbers.iter().all(|n| n.ty.is_integer()) =>
        {
            match numbers {
                [Argument { literal: Some(Value::Int(0)), .. }, ..] => Err(FROM_1.into()),
                _ => Ok(Type::String),
            }
        }
        _ => Err("takes a String, an integer offset and an integer length".into()),
    }
}

const FROM_1: &str = "counts from 1: there is no offset 0";

fn eval_substring(call: &ScalarCall) -> Result<Column> {
    let (texts, offset, length) = (call.column(0), call.column(1), call.column(2));
    if (0..call.rows).any(|row| offset.int(row) == 0) {
        return Err(Error::failed(format!("substring {FROM_1}")));
    }
    let cut = |text: &str, row: usize, out: &mut String| {
        let length = (call.args.len() > 2).then(|| length.int(row));
        out.push_str(substring(text, offset.int(row), length));
    };
    if let (Column::Same(_), Column::Same(_)) = (offset, length) {
        return texts_of(call, |text, out| cut(text, 0, out));
    }
    texts_by_row(call, |row, out| {
        cut(texts.text(row), row, out);
        Ok(())
    })
}

/// `offset` counts code points from 1, or backwards from the end if it is negative. A negative `length` omits
/// that many code points at the end.
fn substring(text: &str, offset: i64, length: Option<i64>) -> &str {
    let count = int(text.chars().count());
    let start = match offset {
        0 => return "",
        1.. => offset - 1,
        _ => count.saturating_add(offset),
    };
    let end = match length {
        None => count,
        Some(length @ ..0) => count.saturating_add(length),
        Some(length) => start.saturating_add(length),
    };
    let byte = |at: i64| {
        let at = usize::try_from(at).unwrap_or(0);
        text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
    };
    text.get(byte(start)..byte(end)).unwrap_or_default()
}

/// A piece of a `format()` string.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The index of a value, from 0.
    Value(usize),
}

/// Parses a format with placeholders, `{}` or `{0}`, for the given number of values.
fn pieces(format: &str, values: usize) -> std::result::Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let (mut next, mut numbered) = (0, None);
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = brace.strip_prefix("{{") {
            text.push('{');
            rest = after;
            continue;
        }
        if let Some(after) = brace.strip_prefix("}}") {
            text.push('}');
            rest = after;
            continue;
        }
        let Some((number, after)) =
            brace.strip_prefix('{').and_then(|inside| inside.split_once('}'))
        else {
            return Err("takes a format with paired braces".into());
        };
        rest = after;
        let by_number = !number.is_empty();
        if *numbered.get_or_insert(by_number) != by_number {
            return Err("takes a format of {} or of {0}, not of both".into());
        }
        let index = if by_number {
            number.parse().map_err(|_| "takes a format with numbers in its braces, or nothing")?
        } else {
            next += 1;
            next - 1
        };
        if index >= values {
            return Err("has fewer values than its format has placeholders".into());
        }
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        pieces.push(Piece::Value(index));
    }
    text.push_str(rest);
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

fn check_format(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { literal: Some(Value::Text(format)), .. }, values @ ..] => {
            if let Some(array) = values.iter().find(|value| matches!(value.ty, Type::Array(_))) {
                return Err(format!("does not take an {}", array.ty));
            }
            pieces(format, values.len()).map(|_| Type::String)
        }
        _ => Err("takes its format as a string, such as '{} of {}'".into()),
    }
}

fn eval_format(call: &ScalarCall) -> Result<Column> {
    let pieces = pieces(call.column(0).text(0), call.args.len().saturating_sub(1))
        .map_err(|message| Error::failed(format!("format {message}")))?;
    texts_by_row(call, |row, out| {
        for piece in &pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(i) => match call.arg(i + 1) {
                    (column, Type::String) => out.push_str(column.text(row)),
                    (column, ty) => column.value(row).write(ty, out)?,
                },
            }
            check_string(out.len())?;
        }
        Ok(())
    })
}

fn check_encode(args: &[Argument]) -> CheckResult {
    match args {
        [Argument { ty: Type::Interval(_) | Type::Array(_), .. }] => {
            Err("takes a number, a string or a date".into())
        }
        _ => Ok(Type::String),
    }
}

/// Encodes strings byte by byte, doubles in little-endian order, and integers in big-endian order from the
/// first non-zero byte.
fn encode(call: &ScalarCall, write: fn(u8, &mut String) -> std::fmt::Result) -> Result<Column> {
    let (x, ty) = call.arg(0);
    texts_by_row(call, |row, out| {
        let mut all = |bytes: &[u8]| bytes.iter().try_for_each(|byte| write(*byte, out));
        match ty {
            Type::String => {
                check_string(x.text(row).len())?;
                all(x.text(row).as_bytes())?;
            }
            Type::Float64 => all(&x.float(row).to_le_bytes())?,
            _ => {
                let bytes = x.int(row).to_be_bytes();
                let own = bytes.len() - usize::from(ty.bytes());
                let zeros = bytes.iter().skip(own).take_while(|byte| **byte == 0).count();
                let first = (own + zeros).min(bytes.len() - 1);
                all(bytes.get(first..).unwrap_or_default())?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_substrings_as_clickhouse_does() {
        for (offset, length, cut) in [
            (2, Some(2), "él"),
            (-3, Some(2), "ll"),
            (3, Some(-1), "ll"),
            (0, Some(3), ""),
            (5, None, "o"),
            (6, None, ""),
            (-6, None, "héllo"),
            (-6, Some(2), "h"),
            (2, Some(100), "éllo"),
            (i64::MIN, Some(i64::MIN), ""),
            (i64::MAX, Some(i64::MAX), ""),
        ] {
            assert_eq!(substring("héllo", offset, length), cut, "{offset}, {length:?}");
        }
    }

    #[test]
    fn parses_a_format_or_refuses_it() {
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(pieces("a{}b", 1), Ok(vec![text("a"), Piece::Value(0), text("b")]));
        assert_eq!(pieces("{{}}", 1), Ok(vec![text("{}")]));
        for format in ["{", "}", "{}{}", "{0}{}", "{x}", "{1}", "{} {"] {
            assert!(pieces(format, 1).is_err(), "{format}");
        }
    }
}
