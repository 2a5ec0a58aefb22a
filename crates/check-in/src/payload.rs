//! The body of a check-in: parsed and validated by the Worker, written by the agent.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::limits::{
    MAX_BYTES, MAX_LOAD, MAX_RESTARTS, MAX_SANDBOX_ID_BYTES, MAX_STRING_BYTES, MAX_UPTIME_SECONDS,
    has_control_characters,
};

/// A check-in: what a machine reports.
///
/// [`CheckIn::parse`] returns only values that satisfy every rule of the contract; strings borrow from the body unless
/// they have escapes. Clients serialize this type as the body.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckIn<'a> {
    /// The sandbox's id: 1 to 96 bytes.
    pub sandbox_id: Cow<'a, str>,
    /// The machine that runs the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<Cow<'a, str>>,
    /// The controller's version; not empty.
    pub controller_version: Cow<'a, str>,
    /// The controller's git commit; not empty.
    pub controller_commit: Cow<'a, str>,
    /// `OpenClaw`'s version, if known.
    pub openclaw_version: Option<Cow<'a, str>>,
    /// `OpenClaw`'s git commit, if known.
    pub openclaw_commit: Option<Cow<'a, str>>,
    /// `stopped`, `starting`, `running`, `stopping`, `crashed`, `shutting_down`, or a newer client's state; not empty.
    pub supervisor_state: Cow<'a, str>,
    /// Restarts of the supervised process since its supervisor started: 0 to 1e9.
    #[serde(serialize_with = "whole_where_possible")]
    pub total_restarts: f64,
    /// Restarts since the last accepted check-in: 0 to 1e9.
    #[serde(serialize_with = "whole_where_possible")]
    pub restarts_since_last_checkin: f64,
    /// Uptime of the supervised process in seconds: 0 to 4e9.
    #[serde(serialize_with = "whole_where_possible")]
    pub uptime_seconds: f64,
    /// Runnable tasks, averaged over 5 minutes: 0 to 2^22.
    #[serde(rename = "loadAvg5m", serialize_with = "whole_where_possible")]
    pub load_avg_5m: f64,
    /// Received bytes since the last accepted check-in: 0 to 2^53.
    #[serde(serialize_with = "whole_where_possible")]
    pub bandwidth_bytes_in: f64,
    /// Sent bytes since the last accepted check-in: 0 to 2^53.
    #[serde(serialize_with = "whole_where_possible")]
    pub bandwidth_bytes_out: f64,
    /// `signal:<NAME>`, `code:<N>`, or empty before the first exit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit_reason: Option<Cow<'a, str>>,
    /// Used bytes of the sandbox's file system, if known: a whole number from 0 to 2^53.
    #[serde(serialize_with = "whole_if_known", skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<f64>,
    /// Size of the sandbox's file system in bytes, if known: a whole number from 0 to 2^53.
    #[serde(serialize_with = "whole_if_known", skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<f64>,
}

/// Generates [`Field`] from the variants and names of a check-in's fields, and of those that only an absence has.
macro_rules! fields {
    ($($field:ident = $name:literal,)+; $($other:ident = $other_name:literal,)+) => {
        /// The fields of a check-in's body, and of an [absence](crate::absence)'s.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field {
            $(#[doc = concat!("`", $name, "`")] $field,)+
            $(#[doc = concat!("`", $other_name, "`, of an absence")] $other,)+
        }

        impl Field {
            /// Every field of a check-in, in the order of the contract.
            pub const CHECK_IN: [Self; [$($name),+].len()] = [$(Self::$field),+];

            /// The field's name in the body.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)+
                    $(Self::$other => $other_name,)+
                }
            }

            /// The check-in's field with this name.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)+
                    _ => None,
                }
            }
        }
    };
}

fields! {
    SandboxId = "sandboxId",
    MachineId = "machineId",
    ControllerVersion = "controllerVersion",
    ControllerCommit = "controllerCommit",
    OpenclawVersion = "openclawVersion",
    OpenclawCommit = "openclawCommit",
    SupervisorState = "supervisorState",
    TotalRestarts = "totalRestarts",
    RestartsSinceLastCheckin = "restartsSinceLastCheckin",
    UptimeSeconds = "uptimeSeconds",
    LoadAvg5m = "loadAvg5m",
    BandwidthBytesIn = "bandwidthBytesIn",
    BandwidthBytesOut = "bandwidthBytesOut",
    LastExitReason = "lastExitReason",
    DiskUsedBytes = "diskUsedBytes",
    DiskTotalBytes = "diskTotalBytes",
    ;
    ForSeconds = "forSeconds",
    Reason = "reason",
}

impl Field {
    /// The field's rule, worded to follow "must be".
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::SandboxId => {
                "a string of 1 to 96 bytes, without control characters or lone surrogates"
            }
            Self::ControllerVersion | Self::ControllerCommit | Self::SupervisorState => {
                "a string of 1 to 1024 bytes, without control characters or lone surrogates"
            }
            Self::OpenclawVersion | Self::OpenclawCommit => {
                "a string of at most 1024 bytes, without control characters or lone surrogates, or null"
            }
            Self::MachineId => {
                "a string of at most 1024 bytes, without control characters or lone surrogates, or left out"
            }
            Self::LastExitReason => {
                "a string of at most 1024 bytes, without lone surrogates, or left out"
            }
            Self::TotalRestarts | Self::RestartsSinceLastCheckin => "a number from 0 to 1000000000",
            Self::UptimeSeconds => "a number from 0 to 4000000000",
            Self::LoadAvg5m => "a number from 0 to 4194304",
            Self::BandwidthBytesIn | Self::BandwidthBytesOut => {
                "a number from 0 to 9007199254740992"
            }
            Self::DiskUsedBytes | Self::DiskTotalBytes => {
                "a whole number from 0 to 9007199254740992, or null, or left out"
            }
            Self::ForSeconds => "a whole number from 0 to 2592000, or null",
            Self::Reason => {
                "a string of at most 200 characters, without control characters or lone surrogates, or left out"
            }
        }
    }
}

/// Why a body is not a check-in, or not an [absence](crate::absence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidBody {
    /// The body is not JSON in UTF-8.
    NotJson,
    NotAnObject,
    /// This field is missing or breaks its [rule](Field::rule).
    Field(Field),
}

impl fmt::Display for InvalidBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("the body must be JSON in UTF-8"),
            Self::NotAnObject => f.write_str("the body must be a JSON object"),
            Self::Field(field) => write!(f, "{} must be {}", field.name(), field.rule()),
        }
    }
}

impl std::error::Error for InvalidBody {}

impl<'a> CheckIn<'a> {
    /// Parses and validates a body.
    ///
    /// Unknown fields are ignored. The last duplicate key wins, as in JavaScript's `JSON.parse`, which other clients
    /// and servers of this contract use; but here, every occurrence must be valid. A byte-order mark before the object
    /// is skipped.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidBody> {
        Self::parse_str(decode(body)?)
    }

    /// Like [`parse`](Self::parse), for a decoded body: decoding has removed the byte-order mark.
    pub fn parse_str(body: &'a str) -> Result<Self, InvalidBody> {
        let reading = Cell::new(None);
        read(body, &reading, BodyVisitor { reading: &reading })
    }
}

/// Decodes a body as JavaScript's `TextDecoder` does: without a byte-order mark.
pub(crate) fn decode(body: &[u8]) -> Result<&str, InvalidBody> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    std::str::from_utf8(body).map_err(|_| InvalidBody::NotJson)
}

/// Reads a body with `seed`, which keeps the current field, which an error names, in `reading`.
pub(crate) fn read<'a, S: DeserializeSeed<'a>>(
    body: &'a str,
    reading: &Cell<Option<Field>>,
    seed: S,
) -> Result<S::Value, InvalidBody> {
    // Bytes, since jwt-compact reads bytes: the Worker would otherwise contain a second parser, for `str`.
    let mut deserializer = serde_json::Deserializer::from_slice(body.as_bytes());
    seed.deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| match reading.get() {
            // A body that breaks off within a field is invalid JSON, not an invalid field.
            Some(field) if !error.is_eof() && !breaks_off(body, &error) => {
                InvalidBody::Field(field)
            }
            None if error.is_data() => InvalidBody::NotAnObject,
            _ => InvalidBody::NotJson,
        })
}

/// Whether the error is that the body ends within a number, which `serde_json` calls an invalid number.
fn breaks_off(body: &str, error: &serde_json::Error) -> bool {
    let (lines, last) = body.split('\n').fold((0, ""), |(lines, _), line| (lines + 1, line));
    last.ends_with(['-', '+', '.', 'e', 'E'])
        && (error.line(), error.column()) == (lines, last.len())
}

/// The rule of [`Field::SandboxId`].
pub(crate) const SANDBOX_ID: Text = Text { min: 1, max: MAX_SANDBOX_ID_BYTES, controls: false };

/// Reads the object; `reading` is the current field, which an error names.
struct BodyVisitor<'c> {
    reading: &'c Cell<Option<Field>>,
}

impl<'de> DeserializeSeed<'de> for BodyVisitor<'_> {
    type Value = CheckIn<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodyVisitor<'_> {
    type Value = CheckIn<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        /// An optional text.
        type Nullable<'a> = Option<Cow<'a, str>>;
        const NON_EMPTY: Text = Text { min: 1, max: MAX_STRING_BYTES, controls: false };
        const ANY: Text = Text { min: 0, max: MAX_STRING_BYTES, controls: false };
        const RESTARTS: Number = Number { max: MAX_RESTARTS, whole: false };
        const UPTIME: Number = Number { max: MAX_UPTIME_SECONDS, whole: false };
        const LOAD: Number = Number { max: MAX_LOAD, whole: false };
        const BYTES: Number = Number { max: MAX_BYTES, whole: false };
        const DISK: OrNull<Number> = OrNull(Number { max: MAX_BYTES, whole: true });

        let mut sandbox_id = None;
        let mut machine_id = None;
        let mut controller_version = None;
        let mut controller_commit = None;
        let mut openclaw_version: Option<Nullable<'de>> = None;
        let mut openclaw_commit: Option<Nullable<'de>> = None;
        let mut supervisor_state = None;
        let mut total_restarts = None;
        let mut restarts_since_last_checkin = None;
        let mut uptime_seconds = None;
        let mut load_avg_5m = None;
        let mut bandwidth_bytes_in = None;
        let mut bandwidth_bytes_out = None;
        let mut last_exit_reason = None;
        let mut disk_used_bytes = None;
        let mut disk_total_bytes = None;

        while let Some(key) = map.next_key_seed(Key)? {
            let Some(field) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.reading.set(Some(field));
            match field {
                Field::SandboxId => sandbox_id = Some(map.next_value_seed(SANDBOX_ID)?),
                Field::MachineId => machine_id = Some(map.next_value_seed(ANY)?),
                Field::ControllerVersion => {
                    controller_version = Some(map.next_value_seed(NON_EMPTY)?);
                }
                Field::ControllerCommit => {
                    controller_commit = Some(map.next_value_seed(NON_EMPTY)?);
                }
                Field::OpenclawVersion => {
                    openclaw_version = Some(map.next_value_seed(OrNull(ANY))?);
                }
                Field::OpenclawCommit => {
                    openclaw_commit = Some(map.next_value_seed(OrNull(ANY))?);
                }
                Field::SupervisorState => supervisor_state = Some(map.next_value_seed(NON_EMPTY)?),
                Field::TotalRestarts => total_restarts = Some(map.next_value_seed(RESTARTS)?),
                Field::RestartsSinceLastCheckin => {
                    restarts_since_last_checkin = Some(map.next_value_seed(RESTARTS)?);
                }
                Field::UptimeSeconds => uptime_seconds = Some(map.next_value_seed(UPTIME)?),
                Field::LoadAvg5m => load_avg_5m = Some(map.next_value_seed(LOAD)?),
                Field::BandwidthBytesIn => bandwidth_bytes_in = Some(map.next_value_seed(BYTES)?),
                Field::BandwidthBytesOut => {
                    bandwidth_bytes_out = Some(map.next_value_seed(BYTES)?);
                }
                Field::LastExitReason => {
                    // Free text, not an identifier: an odd exit reason must not cost the check-in.
                    let seed = Text { controls: true, ..ANY };
                    last_exit_reason = Some(map.next_value_seed(seed)?);
                }
                Field::DiskUsedBytes => disk_used_bytes = map.next_value_seed(DISK)?,
                Field::DiskTotalBytes => disk_total_bytes = map.next_value_seed(DISK)?,
                // Fields of an absence. Here they are unknown, and `Key` does not return them.
                Field::ForSeconds | Field::Reason => {}
            }
            self.reading.set(None);
        }

        let missing = |field: Field| {
            self.reading.set(Some(field));
            de::Error::missing_field(field.name())
        };
        Ok(CheckIn {
            sandbox_id: sandbox_id.ok_or_else(|| missing(Field::SandboxId))?,
            machine_id,
            controller_version: controller_version
                .ok_or_else(|| missing(Field::ControllerVersion))?,
            controller_commit: controller_commit.ok_or_else(|| missing(Field::ControllerCommit))?,
            openclaw_version: openclaw_version.ok_or_else(|| missing(Field::OpenclawVersion))?,
            openclaw_commit: openclaw_commit.ok_or_else(|| missing(Field::OpenclawCommit))?,
            supervisor_state: supervisor_state.ok_or_else(|| missing(Field::SupervisorState))?,
            total_restarts: total_restarts.ok_or_else(|| missing(Field::TotalRestarts))?,
            restarts_since_last_checkin: restarts_since_last_checkin
                .ok_or_else(|| missing(Field::RestartsSinceLastCheckin))?,
            uptime_seconds: uptime_seconds.ok_or_else(|| missing(Field::UptimeSeconds))?,
            load_avg_5m: load_avg_5m.ok_or_else(|| missing(Field::LoadAvg5m))?,
            bandwidth_bytes_in: bandwidth_bytes_in
                .ok_or_else(|| missing(Field::BandwidthBytesIn))?,
            bandwidth_bytes_out: bandwidth_bytes_out
                .ok_or_else(|| missing(Field::BandwidthBytesOut))?,
            last_exit_reason,
            disk_used_bytes,
            disk_total_bytes,
        })
    }
}

/// Reads a key: a known field, or `None`.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Field::named(name))
    }
}

/// Reads a string of `min` to `max` bytes, borrowed if it has no escapes.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Whether control characters are allowed.
    pub(crate) controls: bool,
}

impl Text {
    fn check<E: de::Error>(self, text: &str) -> Result<(), E> {
        if !(self.min..=self.max).contains(&text.len()) {
            return Err(E::invalid_length(text.len(), &self));
        }
        if !self.controls && has_control_characters(text) {
            return Err(E::invalid_value(de::Unexpected::Str(text), &self));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of {} to {} bytes", self.min, self.max)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.check(text)?;
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.check(text)?;
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Reads a value, or null as `None`.
pub(crate) struct OrNull<S>(pub(crate) S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for OrNull<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for OrNull<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

/// Reads a number from 0 to `max`; a fraction is an error if the number must be whole.
#[derive(Clone, Copy)]
pub(crate) struct Number {
    pub(crate) max: f64,
    pub(crate) whole: bool,
}

impl<'de> DeserializeSeed<'de> for Number {
    type Value = f64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f64, D::Error> {
        kiloclaw_json::number(<&RawValue>::deserialize(deserializer)?.get())
            .filter(|number| (0.0..=self.max).contains(number))
            .filter(|number| !self.whole || number.fract() == 0.0)
            .map(|number| number + 0.0) // turns -0 into 0
            .ok_or_else(|| de::Error::custom("not a number within its bounds"))
    }
}

/// Serializes `3`, not `3.0`, as a JavaScript client does.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
fn whole_where_possible<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && (0.0..=MAX_BYTES).contains(number) {
        serializer.serialize_u64(*number as u64)
    } else {
        serializer.serialize_f64(*number)
    }
}

#[allow(clippy::ref_option, reason = "serde passes fields by reference")]
fn whole_if_known<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => whole_where_possible(number, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn full() -> Value {
        json!({
            "sandboxId": "sandbox-1",
            "machineId": "machine-1",
            "controllerVersion": "1.2.3",
            "controllerCommit": "abc1234",
            "openclawVersion": "2026.3.13",
            "openclawCommit": "def5678",
            "supervisorState": "running",
            "totalRestarts": 7,
            "restartsSinceLastCheckin": 2,
            "uptimeSeconds": 3600.5,
            "loadAvg5m": 0.42,
            "bandwidthBytesIn": 123_456_789_012_u64,
            "bandwidthBytesOut": 1e3,
            "lastExitReason": "code:1",
            "diskUsedBytes": 1_000,
            "diskTotalBytes": 2_000,
        })
    }

    fn parse(body: &Value) -> Result<Value, InvalidBody> {
        let body = body.to_string();
        CheckIn::parse(body.as_bytes()).map(|check_in| serde_json::to_value(check_in).unwrap())
    }

    fn with(field: Field, value: Value) -> Value {
        let mut body = full();
        body[field.name()] = value;
        body
    }

    fn without(field: Field) -> Value {
        let mut body = full();
        body.as_object_mut().unwrap().remove(field.name());
        body
    }

    #[test]
    fn reads_what_a_client_sends() {
        let body = full().to_string();
        let check_in = CheckIn::parse(body.as_bytes()).unwrap();
        assert_eq!(check_in.sandbox_id, "sandbox-1");
        assert!(matches!(check_in.sandbox_id, Cow::Borrowed(_)));
        assert_eq!(check_in.bandwidth_bytes_in.to_bits(), 123_456_789_012_f64.to_bits());
        assert_eq!(check_in.bandwidth_bytes_out.to_bits(), 1000_f64.to_bits());
        assert_eq!(check_in.last_exit_reason.as_deref(), Some("code:1"));
    }

    #[test]
    fn optional_fields_may_be_left_out_but_not_null() {
        for field in [Field::MachineId, Field::LastExitReason] {
            assert!(parse(&without(field)).is_ok());
            assert_eq!(parse(&with(field, Value::Null)), Err(InvalidBody::Field(field)));
        }
    }

    #[test]
    fn disk_values_are_whole_null_or_left_out() {
        for field in [Field::DiskUsedBytes, Field::DiskTotalBytes] {
            let sent = |value: &str| {
                let body = with(field, json!("it")).to_string().replace("\"it\"", value);
                CheckIn::parse(body.as_bytes()).map(|check_in| {
                    if field == Field::DiskUsedBytes {
                        check_in.disk_used_bytes
                    } else {
                        check_in.disk_total_bytes
                    }
                })
            };
            let largest = 9_007_199_254_740_992.0;
            for (value, found) in [
                ("null", None),
                ("0", Some(0.0)),
                ("-0", Some(0.0)),
                ("5.0", Some(5.0)),
                ("1e3", Some(1_000.0)),
                ("9007199254740992", Some(largest)),
            ] {
                assert_eq!(sent(value), Ok(found), "{value}");
            }
            for value in ["0.5", "-1", "9007199254740994", "1e17", "1e999", "true", "\"1\"", "[]"] {
                assert_eq!(sent(value), Err(InvalidBody::Field(field)), "{value}");
            }
            assert!(parse(&without(field)).is_ok());
        }
    }

    #[test]
    fn nullable_fields_may_be_null_but_not_left_out() {
        for field in [Field::OpenclawVersion, Field::OpenclawCommit] {
            assert!(parse(&with(field, Value::Null)).is_ok());
            assert!(parse(&with(field, json!(""))).is_ok());
            assert_eq!(parse(&without(field)), Err(InvalidBody::Field(field)));
        }
    }

    #[test]
    fn names_a_field_that_is_missing_or_has_the_wrong_type() {
        for field in Field::CHECK_IN {
            if !field.rule().ends_with("left out") {
                assert_eq!(parse(&without(field)), Err(InvalidBody::Field(field)));
            }
            for wrong in [json!(true), json!([]), json!({}), json!([1]), json!({"a": 1})] {
                assert_eq!(parse(&with(field, wrong)), Err(InvalidBody::Field(field)));
            }
            let other = if full()[field.name()].is_string() { json!(1) } else { json!("1") };
            assert_eq!(parse(&with(field, other)), Err(InvalidBody::Field(field)));
        }
    }

    #[test]
    fn limits_strings_in_bytes_not_in_characters() {
        for field in Field::CHECK_IN.into_iter().filter(|field| full()[field.name()].is_string()) {
            let max = if field == Field::SandboxId { 96 } else { 1024 };
            let fits = "é".repeat(max / 2);
            assert!(parse(&with(field, json!(fits))).is_ok(), "{field:?}");
            assert_eq!(parse(&with(field, json!(fits + "x"))), Err(InvalidBody::Field(field)));
        }
        for field in [
            Field::SandboxId,
            Field::ControllerVersion,
            Field::ControllerCommit,
            Field::SupervisorState,
        ] {
            assert_eq!(parse(&with(field, json!(""))), Err(InvalidBody::Field(field)));
        }
    }

    #[test]
    fn rejects_numbers_out_of_bounds() {
        for field in
            Field::CHECK_IN.into_iter().filter(|field| field.rule().starts_with("a number"))
        {
            let (_, highest) = field.rule().rsplit_once(' ').unwrap();
            let above = [
                format!("{highest}.5"),
                format!("{highest}0"),
                "1e308".into(),
                u64::MAX.to_string(),
            ];
            let wrong = ["-1", "-0.5", "1e999", "-1e999", "null", "NaN", "\"1\""];
            // As a double, 2^53 + 0.5 is 2^53.
            let above =
                above.iter().map(String::as_str).filter(|n| n.parse() != highest.parse::<f64>());
            for wrong in wrong.into_iter().chain(above) {
                let body = full().to_string();
                let old = format!("\"{}\":{}", field.name(), full()[field.name()]);
                let new = format!("\"{}\":{wrong}", field.name());
                assert!(body.contains(&old));
                assert_eq!(
                    CheckIn::parse(body.replace(&old, &new).as_bytes()),
                    Err(InvalidBody::Field(field)),
                    "{new}"
                );
            }
        }
        for field in
            Field::CHECK_IN.into_iter().filter(|field| field.rule().starts_with("a number"))
        {
            let (_, highest) = field.rule().rsplit_once(' ').unwrap();
            let highest: u64 = highest.parse().unwrap();
            assert!(parse(&with(field, json!(highest))).is_ok(), "{field:?}");
        }
        let zero = parse(&with(Field::LoadAvg5m, json!(-0.0))).unwrap();
        assert_eq!(zero["loadAvg5m"].to_string(), "0");
    }

    #[test]
    fn rejects_control_characters_except_in_the_exit_reason() {
        for field in Field::CHECK_IN.into_iter().filter(|field| full()[field.name()].is_string()) {
            for text in
                ["a\0", "\u{1b}[2J", "a\nb", "\u{7f}", "\u{9b}2J", "\u{202e}cod", "\u{2066}"]
            {
                let found = parse(&with(field, json!(text)));
                if field == Field::LastExitReason {
                    assert_eq!(found.unwrap()[field.name()], text);
                } else {
                    assert_eq!(found, Err(InvalidBody::Field(field)), "{text:?}");
                }
            }
            for text in ["é", "<script>alert(1)</script>", "👩\u{200d}💻", "\"'\\;-- "] {
                assert_eq!(parse(&with(field, json!(text))).unwrap()[field.name()], text);
            }
        }
    }

    #[test]
    fn rejects_lone_surrogates_and_the_rule_names_them() {
        for field in Field::CHECK_IN.into_iter().filter(|field| full()[field.name()].is_string()) {
            for text in [r"\ud800", r"a\udfffb", r"\udc00\ud800"] {
                let old = format!("\"{}\":{}", field.name(), full()[field.name()]);
                let new = format!("\"{}\":\"{text}\"", field.name());
                let body = full().to_string().replace(&old, &new);
                assert_eq!(
                    CheckIn::parse(body.as_bytes()),
                    Err(InvalidBody::Field(field)),
                    "{new}"
                );
                assert!(field.rule().contains("lone surrogates"));
            }
        }
    }

    #[test]
    fn distinguishes_invalid_json_from_json_that_is_not_an_object() {
        for body in [
            "",
            " ",
            "{",
            "{]",
            "{\"sandboxId\":",
            "{\"sandboxId\":\"x",
            "nope",
            "{\"a\":1,}",
            "\u{0}",
        ] {
            assert_eq!(CheckIn::parse(body.as_bytes()), Err(InvalidBody::NotJson), "{body:?}");
        }
        let trailing = full().to_string() + "x";
        assert_eq!(CheckIn::parse(trailing.as_bytes()), Err(InvalidBody::NotJson));
        assert_eq!(CheckIn::parse(b"{\"unknown\":\"\xff\"}"), Err(InvalidBody::NotJson));
        for body in ["[]", "1", "\"x\"", "null", "true", "[{}]"] {
            assert_eq!(CheckIn::parse(body.as_bytes()), Err(InvalidBody::NotAnObject), "{body}");
        }
    }

    #[test]
    fn a_body_that_breaks_off_anywhere_is_not_json() {
        let number = full().to_string().replace("0.42", "4.2e-1").replace(":7,", ":-0.0e+0,\n");
        let nested = r#"{"sandboxId":"s","totalRestarts":{"a":[1.5e3,"x"]}"#;
        for body in [&*number, nested] {
            for end in 0..body.len() {
                let cut = CheckIn::parse_str(&body[..end]);
                assert_eq!(cut, Err(InvalidBody::NotJson), "{}", &body[..end]);
            }
        }
        assert!(CheckIn::parse_str(&number).is_ok());
        for whole in [r#"{"totalRestarts":-}"#, r#"{"totalRestarts":1.,"x":-"#] {
            let invalid = InvalidBody::Field(Field::TotalRestarts);
            assert_eq!(CheckIn::parse_str(whole), Err(invalid), "{whole}");
        }
    }

    #[test]
    fn ignores_unknown_fields_and_a_byte_order_mark_and_takes_the_last_duplicate_key() {
        let mut body = full();
        body["disk"] = json!({"deep": [[["x"]], null, 1e300]});
        let text =
            format!("\u{feff}{}", body.to_string().replacen('{', "{\"sandboxId\":\"x\",", 1));
        let check_in = CheckIn::parse(text.as_bytes()).unwrap();
        assert_eq!(check_in.sandbox_id, "sandbox-1");
        let second = format!("\u{feff}{text}");
        assert_eq!(CheckIn::parse(second.as_bytes()), Err(InvalidBody::NotJson));
    }

    #[test]
    fn rejects_deep_nesting() {
        let body = format!("{{\"x\":{}", "[".repeat(16_000));
        assert_eq!(CheckIn::parse(body.as_bytes()), Err(InvalidBody::NotJson));
    }

    #[test]
    fn writes_whole_numbers_without_a_fraction() {
        let body = full().to_string();
        let written = serde_json::to_string(&CheckIn::parse(body.as_bytes()).unwrap()).unwrap();
        assert!(written.contains("\"bandwidthBytesOut\":1000,"), "{written}");
        assert!(written.contains("\"uptimeSeconds\":3600.5,"), "{written}");
    }

    prop_compose! {
        fn number()(n in prop_oneof![
            0.0..MAX_LOAD,
            (0..=4_194_304_u32).prop_map(f64::from),
            Just(0.0),
            Just(MAX_LOAD),
        ]) -> f64 { n }
    }

    /// Texts without control characters.
    fn text(length: RangeInclusive<usize>) -> impl Strategy<Value = String> {
        let (least, most) = length.into_inner();
        proptest::string::string_regex(&format!("[^\\pC\\p{{Zl}}\\p{{Zp}}]{{{least},{most}}}"))
            .unwrap()
    }

    prop_compose! {
        fn check_in()(
            (sandbox_id, machine_id, controller_version, controller_commit) in
                (text(1..=20), proptest::option::of(text(0..=40)), text(1..=40), text(1..=40)),
            (openclaw_version, openclaw_commit, supervisor_state, last_exit_reason) in (
                proptest::option::of(text(0..=40)),
                proptest::option::of(text(0..=40)),
                text(1..=40),
                proptest::option::of(any::<String>()),
            ),
            n in proptest::array::uniform6(number()),
            disk in proptest::option::of((number().prop_map(f64::trunc), number().prop_map(f64::trunc))),
        ) -> CheckIn<'static> {
            let cow = Cow::<'static, str>::Owned;
            CheckIn {
                sandbox_id: cow(sandbox_id),
                machine_id: machine_id.map(cow),
                controller_version: cow(controller_version),
                controller_commit: cow(controller_commit),
                openclaw_version: openclaw_version.map(cow),
                openclaw_commit: openclaw_commit.map(cow),
                supervisor_state: cow(supervisor_state),
                total_restarts: n[0],
                restarts_since_last_checkin: n[1],
                uptime_seconds: n[2],
                load_avg_5m: n[3],
                bandwidth_bytes_in: n[4],
                bandwidth_bytes_out: n[5],
                last_exit_reason: last_exit_reason.map(cow),
                disk_used_bytes: disk.map(|(used, _)| used),
                disk_total_bytes: disk.map(|(_, total)| total),
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_check_in_is_read_back(check_in in check_in()) {
            let body = serde_json::to_vec(&check_in).unwrap();
            prop_assert_eq!(CheckIn::parse(&body), Ok(check_in));
        }

        #[test]
        fn parsing_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CheckIn::parse(&body);
        }

        #[test]
        fn a_changed_byte_never_panics_or_breaks_a_rule(at in 0..400usize, byte in any::<u8>()) {
            let mut body = full().to_string().into_bytes();
            let at = at % body.len();
            body[at] = byte;
            if let Ok(check_in) = CheckIn::parse(&body) {
                prop_assert!((1..=96).contains(&check_in.sandbox_id.len()));
                prop_assert!((0.0..=MAX_LOAD).contains(&check_in.load_avg_5m));
            }
        }
    }
}
