//! Parses Analytics Engine's answers in `FORMAT JSON`.

use std::collections::BinaryHeap;
use std::{fmt, mem};

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};
use serde_json::value::RawValue;

use crate::time::Time;

/// An answer has an unexpected form. The text says where, for the log.
#[derive(Debug)]
pub struct UnexpectedAnswer(serde_json::Error);

impl UnexpectedAnswer {
    /// The number of answers differs from the number of queries.
    #[must_use]
    pub fn count() -> Self {
        Self(Error::custom("another number of answers than of queries"))
    }
}

impl From<serde_json::Error> for UnexpectedAnswer {
    fn from(error: serde_json::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for UnexpectedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected answer from Analytics Engine: {}", self.0)
    }
}

impl std::error::Error for UnexpectedAnswer {}

/// A row of an answer, or another JSON object; [`row!`] implements it.
///
/// `#[derive(Deserialize)]` would compile a parser for each type, of 3 to 6 kB of WebAssembly. Here, one parser fills
/// the rows of all types.
pub(crate) trait Row {
    fn columns(&self) -> &'static [&'static str];

    /// The target of a column, by its position in [`columns`](Self::columns).
    fn target(&mut self, column: usize) -> Target<'_>;
}

/// Declares a struct with a default and implements [`Row`] for it. Each field names its column; a field without a
/// column keeps its default. A field's type decides which values it accepts: see [`Target`].
macro_rules! row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $(
                $(#[$field_attribute:meta])*
                $field_visibility:vis $field:ident: $type:ty $(= $column:literal)?,
            )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Default)]
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        impl $crate::rows::Row for $name {
            fn columns(&self) -> &'static [&'static str] {
                const COLUMNS: &[&str] = &[$($($column,)?)*];
                const { assert!(COLUMNS.len() < 32, "the parser notes seen columns in 32 bits") };
                COLUMNS
            }

            fn target(&mut self, column: usize) -> $crate::rows::Target<'_> {
                // Counts instead of comparing names, which compiles to a jump table.
                let mut columns = 0..;
                $($(
                    let _: &str = $column; // Without it, fields without a column would not be skipped.
                    if columns.next() == Some(column) {
                        return $crate::rows::Target::from(&mut self.$field);
                    }
                )?)*
                $crate::rows::Target::Ignored
            }
        }
    };
}
pub(crate) use row;

/// Rows of any type.
pub(crate) trait Rows {
    /// Appends a row, and returns it to be filled.
    fn add(&mut self) -> Option<&mut dyn Row>;
}

impl<R: Row + Default> Rows for Vec<R> {
    fn add(&mut self) -> Option<&mut dyn Row> {
        self.push(R::default());
        self.last_mut().map(|row| row as &mut dyn Row)
    }
}

/// An answer. Only its rows matter.
struct ResultSet<'a>(&'a mut dyn Rows);

impl Row for ResultSet<'_> {
    fn columns(&self) -> &'static [&'static str] {
        &["data"]
    }

    fn target(&mut self, column: usize) -> Target<'_> {
        if column == 0 { Target::Rows(self.0) } else { Target::Ignored }
    }
}

/// The rows of an answer.
pub(crate) fn read<R: Row + Default>(answer: &str) -> Result<Vec<R>, UnexpectedAnswer> {
    let mut rows = Vec::new();
    append(answer, &mut rows)?;
    Ok(rows)
}

/// Appends the rows of an answer. Not inlined: each type of row calls it.
#[inline(never)]
fn append(answer: &str, rows: &mut dyn Rows) -> Result<(), UnexpectedAnswer> {
    parse(answer, &mut ResultSet(rows))
}

/// The rows of all answers.
pub(crate) fn read_all<R: Row + Default>(answers: &[String]) -> Result<Vec<R>, UnexpectedAnswer> {
    let mut rows = Vec::new();
    for answer in answers {
        append(answer, &mut rows)?;
    }
    Ok(rows)
}

/// The only row of an answer; the default if there is none.
pub(crate) fn read_one<R: Row + Default>(answer: &str) -> Result<R, UnexpectedAnswer> {
    Ok(read(answer)?.pop().unwrap_or_default())
}

/// Fills a row from a JSON object.
#[inline(never)]
pub(crate) fn parse(object: &str, row: &mut dyn Row) -> Result<(), UnexpectedAnswer> {
    let mut json = serde_json::Deserializer::from_slice(object.as_bytes());
    Target::Row(row).deserialize(&mut json)?;
    Ok(json.end()?)
}

/// The target of a JSON value; it decides which values are accepted.
///
/// In answers, 64-bit integers are strings, and numbers that are not finite are null.
pub(crate) enum Target<'a> {
    /// A number; 0 if it is not finite.
    Number(&'a mut f64),
    /// An optional number: a quantile over nothing.
    Maybe(&'a mut Option<f64>),
    /// A whole number, which an answer may hold as a double.
    Whole(&'a mut u64),
    Text(&'a mut String),
    /// A text; an empty one means unknown.
    Known(&'a mut Option<String>),
    Row(&'a mut dyn Row),
    Rows(&'a mut dyn Rows),
    /// Nowhere.
    Ignored,
}

macro_rules! target_of {
    ($($type:ty: $variant:ident,)*) => {$(
        impl<'a> From<&'a mut $type> for Target<'a> {
            fn from(field: &'a mut $type) -> Self {
                Self::$variant(field)
            }
        }
    )*};
}

target_of! {
    f64: Number,
    Option<f64>: Maybe,
    u64: Whole,
    String: Text,
    Option<String>: Known,
}

impl<'a> From<&'a mut Time> for Target<'a> {
    fn from(Time(seconds): &'a mut Time) -> Self {
        Self::Whole(seconds)
    }
}

impl<'de> DeserializeSeed<'de> for Target<'_> {
    type Value = ();

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            Self::Number(target) => *target = number(deserializer)?.unwrap_or_default(),
            Self::Maybe(target) => *target = number(deserializer)?,
            Self::Whole(target) => {
                *target = number(deserializer)?.unwrap_or_default().round() as u64;
            }
            Self::Ignored => drop(deserializer.deserialize_ignored_any(IgnoredAny)?),
            target => deserializer.deserialize_any(target)?,
        }
        Ok(())
    }
}

/// Reads a number; `None` for null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?.get();
    let integer = value.trim_matches('"');
    let is_integer = integer.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let number = kiloclaw_json::number(if is_integer { integer } else { value });
    if number.is_none() && value != "null" {
        let expected = &"a number, a string that holds an integer, or null";
        return Err(D::Error::invalid_value(Unexpected::Other(value), expected));
    }
    Ok(number)
}

impl<'de> Visitor<'de> for Target<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) | Self::Known(_) => "a string",
            Self::Row(_) => "an object",
            _ => "an array of rows",
        })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self {
            Self::Text(target) => value.clone_into(target),
            Self::Known(target) => *target = (!value.is_empty()).then(|| value.to_owned()),
            target => return Err(E::invalid_type(Unexpected::Str(value), &target)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Self::Rows(rows) = self else {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        };
        while elements.next_element_seed(NextRow(rows))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self::Row(row) = self else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        let columns = row.columns();
        let mut seen = 0_u32;
        while let Some(column) = members.next_key_seed(Name(columns))? {
            members.next_value_seed(row.target(column))?;
            seen |= 1 << column;
        }
        match columns.get(seen.trailing_ones() as usize) {
            Some(column) => Err(A::Error::missing_field(column)),
            None => Ok(()),
        }
    }
}

/// Appends a row only if there is another one.
struct NextRow<'a>(&'a mut dyn Rows);

impl<'de> DeserializeSeed<'de> for NextRow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.add().map_or(Target::Ignored, Target::Row).deserialize(deserializer)
    }
}

/// The position of a name in the list; the length of the list if the name is not in it.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a column")
    }

    fn visit_str<E>(self, name: &str) -> Result<usize, E> {
        Ok(self.0.iter().take_while(|column| **column != name).count())
    }
}

/// A vector of the items. `collect` would compile more than twice the code, for each iterator that it collects.
pub fn list<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut list = Vec::new();
    for item in items {
        list.push(item);
    }
    list
}

/// A sort key of rows: numbers, then a text, then numbers.
pub type SortKey = ([u64; 3], String, [u64; 2]);

/// Sorts; equal items stay in their order. Sorting them directly would compile 4 kB of WebAssembly for each type.
pub fn sorted<T>(mut items: Vec<T>, key: impl Fn(&T) -> SortKey) -> Vec<T> {
    for (one, other) in swaps(list(items.iter().map(key).zip(0..))) {
        items.swap(one, other);
    }
    items
}

/// The swaps that put items with these keys in order.
fn swaps(keys: Vec<(SortKey, usize)>) -> Vec<(usize, usize)> {
    // A heap: sorting a slice would compile five times its code. The positions keep equal items in their order.
    let order = BinaryHeap::from(keys).into_sorted_vec();
    // The item for each place. Each cycle of this permutation is followed until it returns to its start.
    let mut items = list(order.into_iter().map(|(_, item)| item));
    let mut swaps = Vec::new();
    for start in 0..items.len() {
        let mut place = start;
        while let Some(item) = items.get_mut(place).map(|item| mem::replace(item, place))
            && item != start
        {
            swaps.push((place, item));
            place = item;
        }
    }
    swaps
}

/// Serializes a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn in_ones<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(number.round() as u64)
}

/// Serializes a whole number; 0 means unknown.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn known<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if *number == 0.0 { serializer.serialize_none() } else { in_ones(number, serializer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    row! {
        #[derive(Debug, PartialEq)]
        struct Numbers {
            n: u64 = "n",
            unread: bool,
            q: Option<f64> = "q",
            s: Option<String> = "s",
        }
    }

    row! {
        struct Times {
            at: Time = "at",
        }
    }

    #[test]
    fn reads_times_from_numbers_and_from_strings() {
        for text in ["1767323045", r#""1767323045""#, "1767323045.0"] {
            let answer = format!(r#"{{"data":[{{"at":{text}}}]}}"#);
            assert_eq!(read_one::<Times>(&answer).unwrap().at, Time(1_767_323_045), "{text}");
        }
    }

    fn numbers(n: u64, q: Option<f64>, s: Option<&str>) -> Numbers {
        Numbers { n, unread: false, q, s: s.map(ToOwned::to_owned) }
    }

    #[test]
    fn reads_rows_with_integers_as_strings() {
        let answer = r#"{"meta":[{"name":"n","type":"UInt64"}],"data":[
            {"n":"18446744073709551615","q":null,"s":""},{"n":3,"q":0.5,"s":"a"},
            {"s":"b","x":{"n":[4]},"q":"1","n":2.0}],"rows":3,"rows_before_limit_at_least":3}"#;
        assert_eq!(
            read::<Numbers>(answer).unwrap(),
            [
                numbers(u64::MAX, None, None),
                numbers(3, Some(0.5), Some("a")),
                numbers(2, Some(1.0), Some("b")),
            ]
        );
        assert_eq!(read_one::<Numbers>(r#"{"data":[]}"#).unwrap(), Numbers::default());
    }

    #[test]
    fn an_unexpected_answer_is_an_error_with_its_location() {
        for (answer, why) in [
            ("", "EOF"),
            (r#"{"data":[{"n":"x","q":1,"s":""}]}"#, r#"invalid value: "x", expected a number"#),
            (
                r#"{"data":[{"n":1,"q":1,"s":2}]}"#,
                "invalid type: integer `2`, expected a string at line 1 column 27",
            ),
            (r#"{"data":[{"n":[],"q":1,"s":""}]}"#, "invalid value: [], expected a number"),
            (r#"{"data":[{"n":1,"s":""}]}"#, "missing field `q` at line 1 column 23"),
            (r#"{"data":[[1,2,""]]}"#, "invalid type: sequence, expected an object"),
            (r#"{"data":{}}"#, "invalid type: map, expected an array of rows"),
            (r#"{"rows":0}"#, "missing field `data`"),
            (r#"{"data":[]}x"#, "trailing characters"),
        ] {
            let error = read::<Numbers>(answer).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
