//! Parses Analytics Engine's answers in `FORMAT JSON`.

use std::fmt;

use serde::de::{DeserializeOwned, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

/// An answer has an unexpected form; the text, for the log, says where.
#[derive(Debug)]
pub struct UnexpectedAnswer(String);

impl UnexpectedAnswer {
    /// The number of answers differs from the number of queries.
    #[must_use]
    pub fn count() -> Self {
        Self("another number of answers than of queries".to_owned())
    }
}

impl From<serde_json::Error> for UnexpectedAnswer {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for UnexpectedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer of Analytics Engine is not what was asked for: {}", self.0)
    }
}

impl std::error::Error for UnexpectedAnswer {}

#[derive(Deserialize)]
struct ResultSet<R> {
    data: Vec<R>,
}

/// The rows of an answer.
pub(crate) fn read<R: DeserializeOwned>(answer: &str) -> Result<Vec<R>, UnexpectedAnswer> {
    Ok(serde_json::from_str::<ResultSet<R>>(answer)?.data)
}

/// The only row of an answer; the default if there is none.
pub(crate) fn read_one<R: DeserializeOwned + Default>(answer: &str) -> Result<R, UnexpectedAnswer> {
    Ok(read(answer)?.pop().unwrap_or_default())
}

/// A number: 64-bit integers are strings, and values that are not finite are null.
struct Number;

impl Visitor<'_> for Number {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a string that holds an integer, or null")
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts; beyond 2^53 the last digits do not matter"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Option<f64>, E> {
        Ok(Some(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "likewise")]
    fn visit_i64<E>(self, value: i64) -> Result<Option<f64>, E> {
        Ok(Some(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<f64>, E> {
        Ok(Some(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "likewise")]
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Option<f64>, E> {
        // Only integers are strings. Parsing floats here would need much more code.
        let number = value.parse().ok().map(|number: i64| number as f64);
        let number = number.or_else(|| value.parse().ok().map(|number: u64| number as f64));
        number.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }

    fn visit_unit<E>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }
}

/// An optional number: a quantile over nothing.
pub(crate) fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    deserializer.deserialize_any(Number)
}

/// A number; 0 if it is not finite.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    maybe(deserializer).map(Option::unwrap_or_default)
}

/// A whole number, which may come as a double.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    number(deserializer).map(|number| number.round() as u64)
}

/// Serializes a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn in_ones<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(number.round() as u64)
}

/// A text; an empty one means unknown.
pub(crate) fn known<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Row {
        #[serde(deserialize_with = "whole")]
        n: u64,
        #[serde(deserialize_with = "maybe")]
        q: Option<f64>,
        #[serde(deserialize_with = "known")]
        s: Option<String>,
    }

    #[test]
    fn rows_are_read_with_integers_as_strings() {
        let answer = r#"{"meta":[{"name":"n","type":"UInt64"}],"data":[
            {"n":"18446744073709551615","q":null,"s":""},{"n":3,"q":0.5,"s":"a"},
            {"n":2.0,"q":"1","s":"b"}],"rows":3,"rows_before_limit_at_least":3}"#;
        assert_eq!(
            read::<Row>(answer).unwrap(),
            [
                Row { n: u64::MAX, q: None, s: None },
                Row { n: 3, q: Some(0.5), s: Some("a".into()) },
                Row { n: 2, q: Some(1.0), s: Some("b".into()) },
            ]
        );
        assert_eq!(read_one::<Row>(r#"{"data":[]}"#).unwrap(), Row::default());
    }

    #[test]
    fn what_is_no_answer_is_told_with_its_place() {
        for (answer, why) in [
            ("", "EOF"),
            (
                r#"{"data":[{"n":"x","q":1,"s":""}]}"#,
                r#"invalid value: string "x", expected a number"#,
            ),
            (r#"{"data":[{"n":1,"s":""}]}"#, "missing field `q`"),
        ] {
            let error = read::<Row>(answer).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
