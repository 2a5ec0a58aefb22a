//! Writes JSON, with one copy of the code for all types.
//!
//! `serde_json`'s serializer is generic, and every field checks for an error. Here, only the leaves are `serde_json`'s,
//! and the error type has no values, so the checks vanish: 7 kB less in the gzipped Worker.

#![expect(clippy::unnecessary_wraps, reason = "results, as serde's methods return them")]

use std::fmt::{self, Display};

use serde::Serialize;
use serde::ser::{
    Error, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, Serializer,
};

/// The value as JSON. The keys of maps must be texts.
///
/// # Panics
///
/// For types that no program here writes: integers of 128 bits, tuple structs, and enums whose variants have fields and
/// no tag.
#[must_use]
pub fn to_string(value: &impl Serialize) -> String {
    // Enough for most errors and lines of the log.
    let mut json = Writer(Vec::with_capacity(128));
    match value.serialize(&mut json) {
        Ok(()) => json.into_text(),
        Err(never) => match never {},
    }
}

struct Writer(Vec<u8>);

/// Writing to memory cannot fail.
#[derive(Debug)]
enum Never {}

impl Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

impl Never {
    fn unsupported(name: &str) -> ! {
        unreachable!("{name} has a form that nobody writes")
    }
}

impl Error for Never {
    fn custom<T: Display>(message: T) -> Self {
        unreachable!("{message}")
    }
}

type Written = Result<(), Never>;

type Unsupported = Impossible<(), Never>;

// Not inlined: every type calls these.
impl Writer {
    #[inline(never)]
    fn into_text(self) -> String {
        String::from_utf8(self.0).unwrap_or_default()
    }

    /// Writes a text, a number or null.
    fn leaf<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        // Cannot fail for these types.
        let _ = serde_json::to_writer(&mut self.0, value);
        Ok(())
    }

    #[inline(never)]
    fn open(&mut self, open: u8, close: u8) -> Compound<'_> {
        self.0.push(open);
        Compound { writer: self, close, is_empty: true }
    }
}

/// An object or an array, to its end.
struct Compound<'a> {
    writer: &'a mut Writer,
    close: u8,
    is_empty: bool,
}

impl Compound<'_> {
    /// Begins the next element or member.
    fn next(&mut self) -> &mut Writer {
        if !self.is_empty {
            self.writer.0.push(b',');
        }
        self.is_empty = false;
        self.writer
    }

    #[inline(never)]
    fn key(&mut self, name: &str) -> &mut Writer {
        let writer = self.next();
        let _ = writer.leaf(name);
        writer.0.push(b':');
        writer
    }

    #[inline(never)]
    fn close(self) -> Written {
        self.writer.0.push(self.close);
        Ok(())
    }
}

macro_rules! leaves {
    ($($method:ident: $type:ty as $wide:ty,)*) => {$(
        fn $method(self, value: $type) -> Written {
            self.leaf(&<$wide>::from(value))
        }
    )*};
}

impl<'a> Serializer for &'a mut Writer {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Unsupported;
    type SerializeTupleVariant = Unsupported;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Unsupported;

    leaves! {
        serialize_bool: bool as bool,
        serialize_i8: i8 as i64,
        serialize_i16: i16 as i64,
        serialize_i32: i32 as i64,
        serialize_i64: i64 as i64,
        serialize_u8: u8 as u64,
        serialize_u16: u16 as u64,
        serialize_u32: u32 as u64,
        serialize_u64: u64 as u64,
        serialize_f32: f32 as f32,
        serialize_f64: f64 as f64,
    }

    fn serialize_char(self, value: char) -> Written {
        self.leaf(&value)
    }

    fn serialize_str(self, value: &str) -> Written {
        self.leaf(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Written {
        self.leaf(value)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        self.leaf(&())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Written {
        Never::unsupported(name)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, Never> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple(self, _: usize) -> Result<Compound<'a>, Never> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Unsupported, Never> {
        Never::unsupported(name)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Unsupported, Never> {
        Never::unsupported(name)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a>, Never> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, Never> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Unsupported, Never> {
        Never::unsupported(name)
    }
}

macro_rules! elements {
    ($($of:ident,)*) => {$(
        impl $of for Compound<'_> {
            type Ok = ();
            type Error = Never;

            fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
                value.serialize(self.next())
            }

            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

elements! {
    SerializeSeq,
    SerializeTuple,
}

impl SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        key.serialize(self.next())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.writer.0.push(b':');
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Written {
        self.close()
    }
}

impl SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Written {
        value.serialize(self.key(name))
    }

    fn end(self) -> Written {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        SilentNow,
    }

    #[derive(Serialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Tagged {
        All,
        OneOf { id: &'static str },
    }

    #[derive(Serialize)]
    struct Newtype(u32);

    #[derive(Serialize)]
    struct Empty {}

    #[derive(Serialize)]
    struct Everything<'a> {
        texts: [&'a str; 4],
        numbers: (u8, i16, u64, i64),
        doubles: Vec<f64>,
        kind: Kind,
        tagged: [Tagged; 2],
        map: BTreeMap<&'a str, Option<bool>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<u8>,
        newtype: Newtype,
        empty: (Empty, Vec<u8>, (), BTreeMap<&'a str, u8>),
        character: char,
    }

    #[test]
    fn writes_the_same_as_serde_json() {
        let everything = Everything {
            texts: ["", "a\"b\\\n\u{1}\u{7f}", "Zürich 🦀", "</script>\u{2028}"],
            numbers: (255, -32_768, u64::MAX, i64::MIN),
            doubles: vec![0.0, -0.0, 0.1, 1e300, 5e-324, 3.0, f64::NAN, f64::INFINITY],
            kind: Kind::SilentNow,
            tagged: [Tagged::All, Tagged::OneOf { id: "s" }],
            map: [("a", None), ("b\"", Some(true))].into(),
            skipped: None,
            newtype: Newtype(7),
            empty: (Empty {}, vec![], (), BTreeMap::new()),
            character: '"',
        };
        assert_eq!(to_string(&everything), serde_json::to_string(&everything).unwrap());
        assert_eq!(to_string(&[Some("text"), None]), r#"["text",null]"#);
        assert_eq!(to_string(&"text"), r#""text""#);
    }
}
