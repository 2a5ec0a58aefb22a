//! Types and single values, with `ClickHouse`'s names and text formats.

use std::fmt::{self, Write};
use std::sync::Arc;

use crate::memory::TrackedVec;
use crate::time::{self, Unit, Zone};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Type {
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float64,
    Bool,
    String,
    /// Seconds since 1970, shown in the time zone; in UTC without one.
    DateTime(Option<Zone>),
    /// Days since 1970.
    Date,
    Interval(Unit),
    Array(Box<Type>),
}

impl Type {
    /// The integer type of 1, 2 or 4 bytes; 8 bytes for any other number.
    pub(crate) fn integer(signed: bool, bytes: u8) -> Self {
        match (signed, bytes) {
            (false, 1) => Self::UInt8,
            (false, 2) => Self::UInt16,
            (false, 4) => Self::UInt32,
            (false, _) => Self::UInt64,
            (true, 1) => Self::Int8,
            (true, 2) => Self::Int16,
            (true, 4) => Self::Int32,
            (true, _) => Self::Int64,
        }
    }

    /// The type of an integer literal; `None` if it does not fit in 64 bits.
    pub(crate) fn of_integer(value: i128) -> Option<Self> {
        Some(match value {
            0..=0xff => Self::UInt8,
            0x100..=0xffff => Self::UInt16,
            0x1_0000..=0xffff_ffff => Self::UInt32,
            0x1_0000_0000..=0xffff_ffff_ffff_ffff => Self::UInt64,
            -0x80..=-1 => Self::Int8,
            -0x8000..=-0x81 => Self::Int16,
            -0x8000_0000..=-0x8001 => Self::Int32,
            -0x8000_0000_0000_0000..=-0x8000_0001 => Self::Int64,
            _ => return None,
        })
    }

    /// The size of a value in `ClickHouse`, which determines result types.
    pub(crate) fn bytes(&self) -> u8 {
        match self {
            Self::UInt8 | Self::Int8 | Self::Bool => 1,
            Self::UInt16 | Self::Int16 | Self::Date => 2,
            Self::UInt32 | Self::Int32 | Self::DateTime(_) => 4,
            _ => 8,
        }
    }

    pub(crate) fn is_signed(&self) -> bool {
        matches!(self, Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64 | Self::Float64)
    }

    /// Includes Bool, which behaves like `UInt8` in arithmetic.
    pub(crate) fn is_integer(&self) -> bool {
        self.is_number() && *self != Self::Float64
    }

    /// Includes Bool.
    pub(crate) fn is_number(&self) -> bool {
        matches!(
            self,
            Self::UInt8
                | Self::UInt16
                | Self::UInt32
                | Self::UInt64
                | Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::Float64
                | Self::Bool
        )
    }

    pub(crate) fn is_date(&self) -> bool {
        matches!(self, Self::DateTime(_) | Self::Date)
    }

    /// The smallest type that holds the values of both types; `None` if no type does.
    pub(crate) fn common(&self, other: &Self) -> Option<Self> {
        if self == other {
            return Some(self.clone());
        }
        match (self, other) {
            (Self::DateTime(_), Self::DateTime(_) | Self::Date) => Some(self.clone()),
            (Self::Date, Self::DateTime(_)) => Some(other.clone()),
            _ if !self.is_number() || !other.is_number() => None,
            (Self::Bool, Self::UInt8) => Some(Self::Bool),
            (Self::Float64, _) | (_, Self::Float64) => {
                // A Float64 cannot hold every 64-bit integer.
                let fits = |ty: &Self| *ty == Self::Float64 || ty.bytes() < 8;
                (fits(self) && fits(other)).then_some(Self::Float64)
            }
            _ if self.is_signed() == other.is_signed() => {
                Some(Self::integer(self.is_signed(), self.bytes().max(other.bytes())))
            }
            _ => {
                let (signed, unsigned) =
                    if self.is_signed() { (self, other) } else { (other, self) };
                let bytes = signed.bytes().max(unsigned.bytes() * 2);
                (bytes <= 8).then(|| Self::integer(true, bytes))
            }
        }
    }

    /// Wraps an integer to the type's range, as `ClickHouse` does on overflow.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it wraps")]
    pub(crate) fn wrap(&self, value: i64) -> i64 {
        match self {
            Self::UInt8 => i64::from(value as u8),
            Self::UInt16 | Self::Date => i64::from(value as u16),
            Self::UInt32 | Self::DateTime(_) => i64::from(value as u32),
            Self::Int8 => i64::from(value as i8),
            Self::Int16 => i64::from(value as i16),
            Self::Int32 => i64::from(value as i32),
            Self::Bool => i64::from(value != 0),
            _ => value,
        }
    }

    /// The result of most aggregate functions without rows.
    pub(crate) fn default_value(&self) -> Value {
        match self {
            Self::Float64 => Value::Float(0.0),
            Self::String => Value::Text(Arc::from("")),
            Self::Array(_) => Value::Array(Arc::default()),
            _ => Value::Int(0),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DateTime(None) => f.write_str("DateTime"),
            Self::DateTime(Some(zone)) => write!(f, "DateTime('{zone}')"),
            Self::Interval(unit) => write!(f, "Interval{unit:?}"),
            Self::Array(of) => write!(f, "Array({of})"),
            plain => write!(f, "{plain:?}"),
        }
    }
}

/// One value. Its [`Type`] determines the meaning of `Int`: a `UInt64`'s bits, a `DateTime`'s seconds, a Date's
/// days, an interval's count.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    Array(Arc<TrackedVec<Value>>),
}

impl PartialEq for Value {
    /// Compares floats by their bits: this compares expressions; it is not SQL's `=`.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a[..] == b[..],
            _ => false,
        }
    }
}

impl Value {
    /// Writes a string without quotes.
    pub(crate) fn write(&self, ty: &Type, out: &mut impl Write) -> fmt::Result {
        match (self, ty) {
            (Self::Text(text), _) => out.write_str(text),
            (Self::Float(float), _) => write_float(*float, out),
            (Self::Array(items), Type::Array(of)) => {
                out.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.write_char(',')?;
                    }
                    item.write_quoted(of, out)?;
                }
                out.write_char(']')
            }
            (Self::Int(value), Type::UInt64) => write!(out, "{}", value.cast_unsigned()),
            (Self::Int(value), Type::Bool) => write!(out, "{}", *value != 0),
            (Self::Int(value), Type::DateTime(zone)) => {
                time::write_date_time(*value, zone.as_ref(), out)
            }
            (Self::Int(value), Type::Date) => time::write_date(*value, out),
            (Self::Int(value), _) => write!(out, "{value}"),
            (Self::Array(_), _) => Ok(()),
        }
    }

    /// Writes an array's item; strings and dates have quotes.
    fn write_quoted(&self, ty: &Type, out: &mut impl Write) -> fmt::Result {
        if let Self::Text(text) = self {
            return write!(out, "'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        }
        let quote = if ty.is_date() { "'" } else { "" };
        out.write_str(quote)?;
        self.write(ty, out)?;
        out.write_str(quote)
    }
}

/// Writes the shortest decimal that parses to the same float, with an exponent where `ClickHouse` writes one.
fn write_float(value: f64, out: &mut impl Write) -> fmt::Result {
    let magnitude = value.abs();
    if value.is_nan() {
        out.write_str("nan")
    } else if magnitude.is_finite() && magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        write!(out, "{value:e}")
    } else {
        write!(out, "{value}")
    }
}

/// A column's name and type, in a table, a subquery or a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Type,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_floats_as_clickhouse_does() {
        for (value, text) in [
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (1e-7, "1e-7"),
            (0.000_001, "0.000001"),
            (-0.0, "-0"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
            (5e-324, "5e-324"),
        ] {
            let mut out = String::new();
            write_float(value, &mut out).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn the_common_type_holds_the_values_of_both_types() {
        assert_eq!(Type::UInt8.common(&Type::Int8), Some(Type::Int16));
        assert_eq!(Type::UInt32.common(&Type::Int8), Some(Type::Int64));
        assert_eq!(Type::UInt64.common(&Type::Int8), None);
        assert_eq!(Type::UInt8.common(&Type::Float64), Some(Type::Float64));
        assert_eq!(Type::UInt64.common(&Type::Float64), None);
        assert_eq!(Type::String.common(&Type::UInt8), None);
    }

    #[test]
    fn integers_wrap_at_their_types_range() {
        assert_eq!(Type::UInt8.wrap(-1), 255);
        assert_eq!(Type::Int8.wrap(200), -56);
        assert_eq!(Type::UInt32.wrap(1 << 32), 0);
    }
}
