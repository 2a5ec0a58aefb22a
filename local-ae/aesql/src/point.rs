//! A data point, and its JSON format.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::time;

/// The maximum number of blobs in a data point, and the maximum number of doubles.
pub const SLOTS: usize = 20;

/// A data point of Analytics Engine.
///
/// Its JSON is one flat object, `{"timestamp": …, "dataset": "…", "index1": "…", "blob1": "…",
/// "double1": 1, "_sample_interval": 1}`. Only `timestamp` is required: milliseconds since 1970, or
/// RFC 3339 text. A double may also be the string `"NaN"`, `"Infinity"` or `"-Infinity"`. A missing or null
/// field is an empty string, 0, or a sample interval of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The time of writing, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The name of the point's table; [`Table::push`](crate::Table::push) ignores it.
    pub dataset: String,
    /// The sampling key.
    pub index1: String,
    /// `blob1` and following, at most [`SLOTS`].
    pub blobs: Vec<String>,
    /// `double1` and following, at most [`SLOTS`].
    pub doubles: Vec<f64>,
    /// The number of points that this point represents; 1 without sampling.
    pub sample_interval: u32,
}

impl Default for Point {
    /// An empty point at the start of 1970.
    fn default() -> Self {
        Self {
            timestamp_ms: 0,
            dataset: String::new(),
            index1: String::new(),
            blobs: Vec::new(),
            doubles: Vec::new(),
            sample_interval: 1,
        }
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PointVisitor)
    }
}

struct PointVisitor;

impl<'de> Visitor<'de> for PointVisitor {
    type Value = Point;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a data point: an object with a timestamp")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Point, A::Error> {
        let mut point = Point::default();
        let mut timestamp = None;
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "timestamp" => timestamp = Some(fields.next_value::<TimestampMs>()?.0),
                "dataset" => point.dataset = text(&mut fields)?,
                "index1" => point.index1 = text(&mut fields)?,
                "_sample_interval" => {
                    point.sample_interval = fields.next_value::<Option<u32>>()?.unwrap_or(1);
                }
                name => {
                    if let Some(i) = slot(name, "blob") {
                        put(&mut point.blobs, i, text(&mut fields)?);
                    } else if let Some(i) = slot(name, "double") {
                        let double = fields.next_value::<Option<Double>>()?;
                        put(&mut point.doubles, i, double.map_or(0.0, |double| double.0));
                    } else {
                        return Err(A::Error::custom(format!("a data point has no \"{name}\"")));
                    }
                }
            }
        }
        point.timestamp_ms = timestamp.ok_or_else(|| A::Error::missing_field("timestamp"))?;
        Ok(point)
    }
}

fn text<'de, A: MapAccess<'de>>(fields: &mut A) -> Result<String, A::Error> {
    Ok(fields.next_value::<Option<String>>()?.unwrap_or_default())
}

/// The index of a slot, such as 6 for `blob7`.
fn slot(name: &str, kind: &str) -> Option<usize> {
    let number: usize = name.strip_prefix(kind)?.parse().ok()?;
    (1..=SLOTS).contains(&number).then(|| number - 1)
}

fn put<T: Default + Clone>(values: &mut Vec<T>, i: usize, value: T) {
    if values.len() <= i {
        values.resize(i + 1, T::default());
    }
    if let Some(slot) = values.get_mut(i) {
        *slot = value;
    }
}

/// Milliseconds since 1970, as a number or as RFC 3339 text.
struct TimestampMs(i64);

impl<'de> Deserialize<'de> for TimestampMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TimestampForm {
            Milliseconds(i64),
            Text(String),
        }
        match TimestampForm::deserialize(deserializer)? {
            TimestampForm::Milliseconds(milliseconds) => Ok(Self(milliseconds)),
            TimestampForm::Text(text) => time::parse_rfc_3339(&text).map(Self).ok_or_else(|| {
                D::Error::custom("a timestamp is milliseconds since 1970 or RFC 3339 text")
            }),
        }
    }
}

/// A JSON number, or the name of NaN or an infinity, since JSON has no numbers for them.
struct Double(f64);

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum DoubleForm {
            Number(f64),
            Name(String),
        }
        match DoubleForm::deserialize(deserializer)? {
            DoubleForm::Number(number) => Ok(Self(number)),
            DoubleForm::Name(name) => match name.as_str() {
                "NaN" => Ok(Self(f64::NAN)),
                "Infinity" => Ok(Self(f64::INFINITY)),
                "-Infinity" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(D::Error::custom("a double is a number")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_timestamp_is_required() {
        let point: Point = serde_json::from_str(r#"{"timestamp": 5}"#).unwrap();
        assert_eq!(point, Point { timestamp_ms: 5, ..Point::default() });
        assert!(serde_json::from_str::<Point>("{}").is_err());
    }

    #[test]
    fn reads_slots_in_any_order_and_with_gaps() {
        let point: Point = serde_json::from_str(
            r#"{"blob3": "c", "double2": "-Infinity", "blob1": null, "timestamp": "1970-01-01T00:00:01Z"}"#,
        )
        .unwrap();
        assert_eq!(point.timestamp_ms, 1000);
        assert_eq!(point.blobs, ["", "", "c"]);
        assert_eq!(point.doubles, [0.0, f64::NEG_INFINITY]);
    }

    #[test]
    fn refuses_an_unknown_field() {
        for field in ["blob0", "blob21", "double21", "index2", "blob"] {
            let json = format!(r#"{{"timestamp": 1, "{field}": "x"}}"#);
            assert!(serde_json::from_str::<Point>(&json).is_err(), "{field}");
        }
    }
}
