//! JSON values whose members may be missing: the claims of a token, and rows of the watcher's state.
//!
//! `serde_json::Value`, with its tree maps, and parsers derived by serde would add 8 kB to the gzipped bundle.

#![forbid(unsafe_code)]

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

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
