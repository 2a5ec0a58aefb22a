//! Any text as the body of a check-in.

use std::fmt;

use kiloclaw_check_in::limits::{
    AE_MAX_BLOB_BYTES, AE_MAX_INDEX_BYTES, MAX_STRING_BYTES, has_control_characters,
};
use kiloclaw_check_in::{CheckIn, DataPoint, InvalidBody};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// What docs/contract.md asks of a field.
enum Rule {
    /// A text of at least and at most so many bytes, without control characters.
    Text { least: usize, most: usize },
    /// A text, or null.
    Nullable,
    /// A text with any characters.
    Any,
    /// A number from 0 to this one.
    Number(f64),
}

const NAMED: Rule = Rule::Text { least: 1, most: MAX_STRING_BYTES };
const OPTIONAL: Rule = Rule::Text { least: 0, most: MAX_STRING_BYTES };

/// docs/contract.md, once more: each field, whether it is required, and its rule.
const FIELDS: [(&str, bool, Rule); 14] = [
    ("sandboxId", true, Rule::Text { least: 1, most: AE_MAX_INDEX_BYTES }),
    ("machineId", false, OPTIONAL),
    ("controllerVersion", true, NAMED),
    ("controllerCommit", true, NAMED),
    ("openclawVersion", true, Rule::Nullable),
    ("openclawCommit", true, Rule::Nullable),
    ("supervisorState", true, NAMED),
    ("totalRestarts", true, Rule::Number(1e9)),
    ("restartsSinceLastCheckin", true, Rule::Number(1e9)),
    ("uptimeSeconds", true, Rule::Number(4e9)),
    ("loadAvg5m", true, Rule::Number(4_194_304.0)),
    ("bandwidthBytesIn", true, Rule::Number(9_007_199_254_740_992.0)),
    ("bandwidthBytesOut", true, Rule::Number(9_007_199_254_740_992.0)),
    ("lastExitReason", false, Rule::Any),
];

/// A body is accepted just if it keeps the contract, with the values that it has as plain JSON, and
/// makes a data point that Analytics Engine takes.
pub fn body(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = CheckIn::parse_str(&text);
    match str::from_utf8(data) {
        Ok(_) => assert_eq!(CheckIn::parse(data), found),
        Err(_) => assert_eq!(CheckIn::parse(data), Err(InvalidBody::NotJson)),
    }

    let fields = serde_json::from_str::<Fields>(text.strip_prefix('\u{feff}').unwrap_or(&text));
    let keeps = fields.as_ref().is_ok_and(Fields::keep_the_contract);
    assert_eq!(found.is_ok(), keeps, "{found:?} of {fields:?}");
    let (Ok(check_in), Ok(fields)) = (found, fields) else { return };
    let texts = [
        ("sandboxId", Some(&check_in.sandbox_id)),
        ("machineId", check_in.machine_id.as_ref()),
        ("controllerVersion", Some(&check_in.controller_version)),
        ("controllerCommit", Some(&check_in.controller_commit)),
        ("openclawVersion", check_in.openclaw_version.as_ref()),
        ("openclawCommit", check_in.openclaw_commit.as_ref()),
        ("supervisorState", Some(&check_in.supervisor_state)),
        ("lastExitReason", check_in.last_exit_reason.as_ref()),
    ];
    for (name, text) in texts {
        assert_eq!(fields.last(name).and_then(Value::as_str), text.map(|text| &**text), "{name}");
    }
    let numbers = [
        ("totalRestarts", check_in.total_restarts),
        ("restartsSinceLastCheckin", check_in.restarts_since_last_checkin),
        ("uptimeSeconds", check_in.uptime_seconds),
        ("loadAvg5m", check_in.load_avg_5m),
        ("bandwidthBytesIn", check_in.bandwidth_bytes_in),
        ("bandwidthBytesOut", check_in.bandwidth_bytes_out),
    ];
    for (name, number) in numbers {
        assert_eq!(fields.last(name).and_then(Value::as_f64), Some(number), "{name}");
        assert!(number.is_finite() && number.is_sign_positive(), "{name}");
    }

    // The body itself is as good a region as any.
    let point = DataPoint::new(&check_in, &text);
    assert!((1..=AE_MAX_INDEX_BYTES).contains(&point.index.len()));
    assert!(point.blobs.iter().all(|blob| blob.len() <= MAX_STRING_BYTES));
    assert!(point.blobs.iter().map(|blob| blob.len()).sum::<usize>() <= AE_MAX_BLOB_BYTES);
    assert!(point.doubles.iter().all(|double| double.is_finite()));

    let written = serde_json::to_string(&check_in);
    let read = written.as_deref().map(CheckIn::parse_str);
    assert!(read.is_ok_and(|read| read.as_ref() == Ok(&check_in)), "{check_in:?}");
}

/// The fields that the contract knows, as they stand in an object: in their order, each as often as it
/// is there. A [`Value`] would keep only the last of equal keys.
#[derive(Debug)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn last(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    fn keep_the_contract(&self) -> bool {
        FIELDS.iter().all(|(name, required, rule)| {
            let mut values = self.0.iter().filter(|(found, _)| found == name).peekable();
            (values.peek().is_some() || !required) && values.all(|(_, value)| rule.is_kept(value))
        })
    }
}

impl Rule {
    fn is_kept(&self, value: &Value) -> bool {
        match *self {
            Self::Text { least, most } => value.as_str().is_some_and(|text| {
                (least..=most).contains(&text.len()) && !has_control_characters(text)
            }),
            Self::Any => value.as_str().is_some_and(|text| text.len() <= MAX_STRING_BYTES),
            Self::Nullable => value.is_null() || OPTIONAL.is_kept(value),
            Self::Number(most) => {
                value.as_f64().is_some_and(|number| (0.0..=most).contains(&number))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // What is not known may be anything that is JSON, also a number that no computer has.
            if FIELDS.iter().any(|(name, ..)| *name == key) {
                fields.push((key, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Fields(fields))
    }
}
