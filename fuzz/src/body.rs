//! Any text as the body of a check-in, or of a planned absence.

use std::fmt;

use kiloclaw_check_in::absence::Absence;
use kiloclaw_check_in::limits::{
    AE_MAX_BLOB_BYTES, AE_MAX_INDEX_BYTES, MAX_STRING_BYTES, has_control_characters,
};
use kiloclaw_check_in::{CheckIn, DataPoint, InvalidBody};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// A field's rule in docs/contract.md.
#[derive(Debug)]
enum Rule {
    /// A text of `least` to `most` bytes, without control characters.
    Text { least: usize, most: usize },
    /// A text, or null.
    Nullable,
    /// A text with any characters.
    Any,
    /// A number from 0 to this bound.
    Number(f64),
    /// A whole number from 0 to this bound, or null.
    Whole(f64),
    /// A text of at most this many characters, without control characters.
    Characters(usize),
}

/// A field: name, whether it is required, rule.
type Field = (&'static str, bool, Rule);

const NAMED: Rule = Rule::Text { least: 1, most: MAX_STRING_BYTES };
const OPTIONAL: Rule = Rule::Text { least: 0, most: MAX_STRING_BYTES };

/// The contract's fields, independent of the code under test.
const FIELDS: [Field; 14] = [
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

const ABSENCE_FIELDS: [Field; 3] = [
    ("sandboxId", true, Rule::Text { least: 1, most: AE_MAX_INDEX_BYTES }),
    ("forSeconds", true, Rule::Whole(2_592_000.0)),
    ("reason", false, Rule::Characters(200)),
];

/// A body is accepted if and only if it keeps the contract. Its values equal those that another JSON
/// parser reads, and its data point is within Analytics Engine's limits.
pub fn body(data: &[u8]) {
    // Decoding removes a byte-order mark.
    let text = String::from_utf8_lossy(data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data));
    let found = CheckIn::parse_str(&text);
    match str::from_utf8(data) {
        Ok(_) => assert_eq!(CheckIn::parse(data), found),
        Err(_) => assert_eq!(CheckIn::parse(data), Err(InvalidBody::NotJson)),
    }

    absence(&text);
    let fields = Fields::read(&text, &FIELDS);
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

    // A region can be any text, so the body serves as one.
    let point = DataPoint::new(&check_in, &text);
    assert!((1..=AE_MAX_INDEX_BYTES).contains(&point.index.len()));
    assert!(point.blobs.iter().all(|blob| blob.len() <= MAX_STRING_BYTES));
    assert!(point.blobs.iter().map(|blob| blob.len()).sum::<usize>() <= AE_MAX_BLOB_BYTES);
    assert!(point.doubles.iter().all(|double| double.is_finite()));

    let written = serde_json::to_string(&check_in);
    let read = written.as_deref().map(CheckIn::parse_str);
    assert!(read.is_ok_and(|read| read.as_ref() == Ok(&check_in)), "{check_in:?}");
}

/// The same for an absence.
fn absence(text: &str) {
    let found = Absence::parse_str(text);
    let fields = Fields::read(text, &ABSENCE_FIELDS);
    let keeps = fields.as_ref().is_ok_and(Fields::keep_the_contract);
    assert_eq!(found.is_ok(), keeps, "{found:?} of {fields:?}");
    let (Ok(absence), Ok(fields)) = (found, fields) else { return };
    let string = |name| fields.last(name).and_then(Value::as_str);
    assert_eq!(string("sandboxId"), Some(&*absence.sandbox_id));
    assert_eq!(string("reason").unwrap_or_default(), absence.reason);
    let seconds = fields.last("forSeconds").and_then(Value::as_f64);
    assert_eq!(seconds, absence.for_seconds.map(|seconds| seconds as f64));

    let written = serde_json::to_string(&absence);
    let read = written.as_deref().map(Absence::parse_str);
    assert!(read.is_ok_and(|read| read.as_ref() == Ok(&absence)), "{absence:?}");
}

/// An object's fields that the contract knows, in their order and with repetitions. A [`Value`] would keep
/// only the last of equal keys.
#[derive(Debug)]
struct Fields {
    known: &'static [Field],
    found: Vec<(String, Value)>,
}

impl Fields {
    fn read(text: &str, known: &'static [Field]) -> serde_json::Result<Self> {
        let mut from = serde_json::Deserializer::from_str(text);
        let found = from.deserialize_map(FieldsVisitor(known))?;
        from.end()?;
        Ok(Self { known, found })
    }

    fn last(&self, name: &str) -> Option<&Value> {
        self.found.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    fn keep_the_contract(&self) -> bool {
        self.known.iter().all(|(name, required, rule)| {
            let mut values = self.found.iter().filter(|(found, _)| found == name).peekable();
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
            Self::Whole(most) => {
                let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
                value.is_null() || whole && Self::Number(most).is_kept(value)
            }
            Self::Characters(most) => value
                .as_str()
                .is_some_and(|text| text.chars().count() <= most && !has_control_characters(text)),
        }
    }
}

struct FieldsVisitor(&'static [Field]);

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // An unknown field may have any JSON value, even a number that no `f64` can hold.
            if self.0.iter().any(|(name, ..)| *name == key) {
                fields.push((key, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}
