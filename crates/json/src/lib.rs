//! JSON in little code: exact numbers, and values whose members may be missing, which are the claims of a token and
//! rows of the watcher's state.
//!
//! `serde_json::Value`, with its tree maps, and parsers derived by serde would add 8 kB to the gzipped bundle, its
//! exact conversion of numbers 6 kB, and its serializer 7 kB.

// On wasm, the binding to JavaScript's `Number` is generated code, which is unsafe.
#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

mod write;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

pub use write::to_string;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Null.
    Null,
    /// False, or a number that is negative or not whole.
    Other,
    /// True.
    True,
    /// A whole number.
    Number(u64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object: its members in their order, also those with the same name.
    Map(Vec<(String, Self)>),
}

impl Value {
    /// Parses a text; [`Null`](Self::Null) if it is not JSON.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        serde_json::from_slice(text.as_bytes()).unwrap_or(Self::Null)
    }

    /// A map's member with this name, the first if there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(members) = self else { return None };
        members.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// Whether this is a map.
    #[must_use]
    pub const fn is_map(&self) -> bool {
        matches!(self, Self::Map(_))
    }

    /// Whether this is true.
    #[must_use]
    pub const fn is_true(&self) -> bool {
        matches!(self, Self::True)
    }

    /// The number, if this is a whole number.
    #[must_use]
    pub const fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// The string, if this is one.
    #[must_use]
    pub const fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text.as_str()) } else { None }
    }

    /// The elements of the member with this name, if it is a list.
    #[must_use]
    pub fn list(&self, name: &str) -> &[Self] {
        if let Some(Self::List(values)) = self.get(name) { values } else { &[] }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// The double nearest to a number in JSON, as JavaScript reads it. `None` for another JSON value, and for a number
/// beyond the largest double. `value` must be valid JSON.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "rounds to the nearest double")]
pub fn number(value: &str) -> Option<f64> {
    if !value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    if let Ok(whole) = value.parse::<u64>() {
        return Some(whole as f64);
    }
    // serde_json divides the digits by a power of ten. That is exact if doubles hold both: up to 15 digits, and 10^22.
    if value.len() <= "0.12345678901234".len() && !value.contains(['e', 'E']) {
        return serde_json::from_slice(value.as_bytes()).ok();
    }
    Some(nearest(value)).filter(|number| number.is_finite())
}

/// The standard library's conversion would add tables of 10 kB to the Worker.
#[cfg(target_family = "wasm")]
#[wasm_bindgen::prelude::wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = Number)]
    fn nearest(number: &str) -> f64;
}

#[cfg(not(target_family = "wasm"))]
fn nearest(number: &str) -> f64 {
    number.parse().unwrap_or(f64::NAN)
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(if value { Value::True } else { Value::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = items.next_entry()? {
            members.push(member);
        }
        Ok(Value::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_and_other_values_are_none() {
        for text in [
            "0",
            "-0",
            "0.1",
            "1.5e-3",
            "1E3",
            "-12.25",
            "0.30000000000000004",
            "9007199254740993",
            "12345678901234567890",
            "123456789012345.6",
            "9.9999999999999e22",
            "2.2250738585072011e-308",
        ] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(number(text).map(f64::to_bits), Some(expected.to_bits()), "{text}");
        }
        for text in ["null", "true", "\"1\"", "[1]", "{}", "1e999", "-1e999"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn every_number_that_is_not_left_to_javascript_is_exact() {
        for digits in
            ["9876543210987654", "9999999999999999", "1000000000000001", "5555555555555555"]
        {
            for end in 1..=digits.len() {
                for point in 1..=end {
                    let mut text = digits[..end].to_owned();
                    if point < end {
                        text.insert(point, '.');
                    }
                    for text in [format!("-{text}"), text] {
                        assert_eq!(number(&text), text.parse().ok(), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn parses_every_value() {
        let row = Value::parse(
            r#"{"a":[1,"b",true,{"c":18446744073709551615}],"d":-1,"e":0.5,"f":null}"#,
        );
        let list = row.list("a");
        assert_eq!(list[0].as_u64(), Some(1));
        assert_eq!(list[1].as_str(), Some("b"));
        assert!(list[2].is_true());
        assert_eq!(list[3].get("c").and_then(Value::as_u64), Some(u64::MAX));
        for name in ["d", "e"] {
            assert_eq!(row.get(name), Some(&Value::Other));
        }
        assert_eq!(row.get("f"), Some(&Value::Null));
        assert_eq!(row.get("g"), None);
        assert_eq!((row.list("f"), row.list("g")), (&[][..], &[][..]));
        assert_eq!(Value::parse("{"), Value::Null);
    }
}
