//! Reads rows of the state: JSON whose members may be missing.
//!
//! `serde_json::Value`, with its tree maps, and parsers derived by serde would add 8 kB to the gzipped bundle.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value, restricted to what rows contain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Null, and values that no row contains, such as fractions.
    Other,
    True,
    Number(u64),
    Text(String),
    List(Vec<Self>),
    /// Members in their order.
    Map(Vec<(String, Self)>),
}

impl Value {
    /// Parses a text; [`Other`](Self::Other) if it is not JSON.
    pub(crate) fn parse(text: &str) -> Self {
        serde_json::from_slice(text.as_bytes()).unwrap_or(Self::Other)
    }

    /// A member of a map.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(members) = self else { return None };
        members.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(crate) const fn is_map(&self) -> bool {
        matches!(self, Self::Map(_))
    }

    pub(crate) const fn is_true(&self) -> bool {
        matches!(self, Self::True)
    }

    pub(crate) const fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub(crate) const fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text.as_str()) } else { None }
    }

    pub(crate) const fn as_list(&self) -> Option<&Vec<Self>> {
        if let Self::List(values) = self { Some(values) } else { None }
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
        Ok(Value::Other)
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
    fn parses_every_value_of_a_row() {
        let row = Value::parse(
            r#"{"a":[1,"b",true,{"c":18446744073709551615}],"d":-1,"e":0.5,"f":null}"#,
        );
        let list = row.get("a").and_then(Value::as_list).unwrap();
        assert_eq!(list[0].as_u64(), Some(1));
        assert_eq!(list[1].as_str(), Some("b"));
        assert!(list[2].is_true());
        assert_eq!(list[3].get("c").and_then(Value::as_u64), Some(u64::MAX));
        for name in ["d", "e", "f"] {
            assert_eq!(row.get(name), Some(&Value::Other));
        }
        assert_eq!(row.get("g"), None);
        assert_eq!(Value::parse("{"), Value::Other);
    }
}
