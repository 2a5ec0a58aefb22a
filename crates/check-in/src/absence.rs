//! A planned absence: a machine reports that it leaves, for how long, and why.
//!
//! The request is like a check-in: it has the same headers, credentials, order of checks and refusals, and treats
//! unknown fields, duplicate keys and a byte-order mark in the same way. An accepted absence gets a 204 without a body.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Serialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::limits::{MAX_ABSENCE_SECONDS, MAX_REASON_CHARACTERS};
use crate::payload::{Field, InvalidBody, Number, OrNull, SANDBOX_ID, Text, decode, read};

/// The path that absences are posted to.
pub const ABSENCE_PATH: &str = "/api/controller/absence";

/// The body of a planned absence.
///
/// [`Absence::parse`] returns only values that satisfy every rule. Clients serialize this type as the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Absence<'a> {
    /// The sandbox's id, by the check-in's rule: 1 to 96 bytes.
    pub sandbox_id: Cow<'a, str>,
    /// How long the absence lasts from now, in seconds: at most 30 days. 0 ends it now. `None` means until the next
    /// check-in; the body must contain it as null.
    pub for_seconds: Option<u64>,
    /// The reason, in at most 200 characters; empty if left out.
    pub reason: Cow<'a, str>,
}

impl<'a> Absence<'a> {
    /// The fields in the order of the body.
    pub const FIELDS: [Field; 3] = [Field::SandboxId, Field::ForSeconds, Field::Reason];

    /// Parses and validates a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidBody> {
        Self::parse_str(decode(body)?)
    }

    /// Like [`parse`](Self::parse), for a decoded body: decoding has removed the byte-order mark.
    pub fn parse_str(body: &'a str) -> Result<Self, InvalidBody> {
        let reading = Cell::new(None);
        read(body, &reading, AbsenceVisitor { reading: &reading })
    }
}

/// Reads the object; `reading` is the current field, which an error names.
struct AbsenceVisitor<'c> {
    reading: &'c Cell<Option<Field>>,
}

impl<'de> DeserializeSeed<'de> for AbsenceVisitor<'_> {
    type Value = Absence<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AbsenceVisitor<'_> {
    type Value = Absence<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "whole numbers from 0 to 30 days in seconds"
    )]
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const SECONDS: Number = Number { max: MAX_ABSENCE_SECONDS as f64, whole: true };
        // A character has at most 4 bytes. The check below counts characters.
        const REASON: Text = Text { min: 0, max: 4 * MAX_REASON_CHARACTERS, controls: false };

        let mut sandbox_id = None;
        let mut for_seconds = None;
        let mut reason = Cow::Borrowed("");
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let Some(field) = Absence::FIELDS.into_iter().find(|field| field.name() == key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.reading.set(Some(field));
            match field {
                Field::SandboxId => sandbox_id = Some(map.next_value_seed(SANDBOX_ID)?),
                Field::ForSeconds => {
                    let seconds = map.next_value_seed(OrNull(SECONDS))?;
                    for_seconds = Some(seconds.map(|seconds| seconds as u64));
                }
                _ => {
                    reason = map.next_value_seed(REASON)?;
                    if reason.chars().count() > MAX_REASON_CHARACTERS {
                        return Err(de::Error::custom("too many characters"));
                    }
                }
            }
            self.reading.set(None);
        }

        let missing = |field: Field| {
            self.reading.set(Some(field));
            de::Error::missing_field(field.name())
        };
        Ok(Absence {
            sandbox_id: sandbox_id.ok_or_else(|| missing(Field::SandboxId))?,
            for_seconds: for_seconds.ok_or_else(|| missing(Field::ForSeconds))?,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::refusal::Refusal;

    const INVALID_REASON: InvalidBody = InvalidBody::Field(Field::Reason);
    const INVALID_SECONDS: InvalidBody = InvalidBody::Field(Field::ForSeconds);
    const INVALID_ID: InvalidBody = InvalidBody::Field(Field::SandboxId);

    fn refused(body: &str) -> Option<InvalidBody> {
        assert_eq!(Absence::parse(body.as_bytes()), Absence::parse_str(body));
        Absence::parse_str(body).err()
    }

    fn with(field: &str, value: Value) -> String {
        let mut body = json!({ "sandboxId": "sandbox-1", "forSeconds": 7200, "reason": "kernel" });
        body[field] = value;
        body.to_string()
    }

    #[test]
    fn reads_what_a_client_sends_without_copying_it() {
        let body =
            r#"{"sandboxId":"sandbox-1","forSeconds":7200,"reason":"kernel upgrade","by":[]}"#;
        let absence = Absence::parse_str(body).unwrap();
        assert_eq!(absence.sandbox_id, "sandbox-1");
        assert_eq!(absence.for_seconds, Some(7200));
        assert_eq!(absence.reason, "kernel upgrade");
        assert!(matches!(absence.reason, Cow::Borrowed(_)));
    }

    #[test]
    fn the_duration_is_a_whole_number_up_to_30_days_or_a_written_null() {
        for (value, seconds) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1", Some(1)),
            ("7200.0", Some(7_200)),
            ("2592000", Some(2_592_000)),
            ("2.592e6", Some(2_592_000)),
            ("null", None),
        ] {
            let body = format!(r#"{{"sandboxId":"s","forSeconds":{value}}}"#);
            assert_eq!(Absence::parse_str(&body).unwrap().for_seconds, seconds, "{value}");
        }
        for value in ["-1", "0.5", "2592001", "2592000.5", "1e300", "1e999", "\"1\"", "true", "[]"]
        {
            let body = format!(r#"{{"sandboxId":"s","forSeconds":{value}}}"#);
            assert_eq!(refused(&body), Some(INVALID_SECONDS), "{value}");
        }
        assert_eq!(refused(r#"{"sandboxId":"s"}"#), Some(INVALID_SECONDS));
    }

    #[test]
    fn the_reason_is_limited_in_characters_and_may_be_left_out() {
        let body = r#"{"sandboxId":"s","forSeconds":null}"#;
        assert_eq!(Absence::parse_str(body).unwrap().reason, "");
        for longest in ["a", "é", "👩", "日"].map(|character| character.repeat(200)) {
            let body = with("reason", json!(longest));
            assert_eq!(Absence::parse_str(&body).unwrap().reason, longest);
            let body = with("reason", json!(longest + "a"));
            assert_eq!(refused(&body), Some(INVALID_REASON));
        }
        for wrong in [json!(null), json!(1), json!(["a"]), json!("a\nb"), json!("\u{202e}cod")] {
            assert_eq!(refused(&with("reason", wrong)), Some(INVALID_REASON));
        }
        let body = r#"{"sandboxId":"s","forSeconds":1,"reason":"\ud800"}"#;
        assert_eq!(refused(body), Some(INVALID_REASON));
    }

    #[test]
    fn the_id_has_the_same_rule_as_in_a_check_in() {
        assert_eq!(refused(&with("sandboxId", json!("s".repeat(96)))), None);
        for wrong in [json!("s".repeat(97)), json!(""), json!(null), json!(1), json!("a\0")] {
            assert_eq!(refused(&with("sandboxId", wrong)), Some(INVALID_ID));
        }
        assert_eq!(refused(r#"{"forSeconds":1}"#), Some(INVALID_ID));
    }

    #[test]
    fn a_refusal_names_the_field_and_its_rule() {
        assert_eq!(
            Refusal::from(INVALID_SECONDS).body().to_json(),
            r#"{"error":"Invalid body","code":"invalid_field","field":"forSeconds","expected":"a whole number from 0 to 2592000, or null"}"#
        );
        assert!(Field::ForSeconds.rule().contains(&format!(" {MAX_ABSENCE_SECONDS},")));
        assert!(Field::Reason.rule().contains(&format!(" {MAX_REASON_CHARACTERS} characters")));
    }

    #[test]
    fn unknown_fields_duplicate_keys_and_a_byte_order_mark_are_treated_as_in_a_check_in() {
        // Unknown fields, a byte-order mark, and the last of the duplicate keys.
        let body = "\u{feff}{\"sandboxId\":\"x\",\"z\":{\"reason\":[1]},\"sandboxId\":\"s\",\"forSeconds\":1}";
        assert_eq!(Absence::parse(body.as_bytes()).unwrap().sandbox_id, "s");
        let second = format!("\u{feff}{body}");
        assert_eq!(Absence::parse(second.as_bytes()), Err(InvalidBody::NotJson));
        let body = r#"{"sandboxId":"","sandboxId":"s","forSeconds":1}"#;
        assert_eq!(refused(body), Some(INVALID_ID));
        let body = r#"{"sandbox\u0049d":"s","forSeconds":1}"#;
        assert_eq!(refused(body), None);

        for body in ["", "{", "{]", "{\"reason\":\"", "{\"a\":1,}", "{\"\\ud800\":1}"] {
            assert_eq!(refused(body), Some(InvalidBody::NotJson), "{body}");
        }
        let trailing = with("reason", json!("")) + "x";
        assert_eq!(refused(&trailing), Some(InvalidBody::NotJson));
        for body in ["[]", "null", "1", "\"x\""] {
            assert_eq!(refused(body), Some(InvalidBody::NotAnObject), "{body}");
        }
        assert_eq!(Absence::parse(b"{\"\xff\":1}"), Err(InvalidBody::NotJson));
        let deep = format!("{{\"x\":{}", "[".repeat(16_000));
        assert_eq!(refused(&deep), Some(InvalidBody::NotJson));
    }

    #[test]
    fn a_check_in_ignores_the_fields_of_an_absence() {
        for unknown in [r#""reason":1,"forSeconds":-1"#, r#""reason":nope"#] {
            let of = |name: &str| {
                let body = format!("{{{},", unknown.replace("reason", name));
                crate::CheckIn::parse_str(&(body + r#""sandboxId":"s"}"#)).unwrap_err()
            };
            assert_eq!(of("reason"), of("unknown"));
        }
    }

    prop_compose! {
        fn absence()(
            sandbox_id in "[^\\pC\\p{Zl}\\p{Zp}]{1,20}",
            for_seconds in proptest::option::of(0..=MAX_ABSENCE_SECONDS),
            reason in "[^\\pC\\p{Zl}\\p{Zp}]{0,200}",
        ) -> Absence<'static> {
            Absence { sandbox_id: sandbox_id.into(), for_seconds, reason: reason.into() }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(absence in absence()) {
            let body = serde_json::to_vec(&absence).unwrap();
            prop_assert_eq!(Absence::parse(&body), Ok(absence));
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Absence::parse(&body);
        }

        #[test]
        fn no_damage_panics_or_breaks_a_rule(at in 0..400_usize, byte in any::<u8>()) {
            let mut body = with("reason", json!("kernel upgrade")).into_bytes();
            let at = at % body.len();
            body[at] = byte;
            if let Ok(absence) = Absence::parse(&body) {
                prop_assert!((1..=96).contains(&absence.sandbox_id.len()));
                prop_assert!(absence.for_seconds.is_none_or(|seconds| seconds <= MAX_ABSENCE_SECONDS));
                prop_assert!(absence.reason.chars().count() <= MAX_REASON_CHARACTERS);
            }
        }
    }
}
