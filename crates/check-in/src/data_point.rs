//! The layout of the Analytics Engine data point: the only definition of the meaning of `blobN`.
//!
//! Points are kept for 90 days and read by position, so the layout is **append-only**: never rename, move or reuse a
//! column.

use std::fmt;

use crate::limits::{AE_MAX_BLOB_BYTES, MAX_STRING_BYTES, has_control_characters};
use crate::payload::CheckIn;

/// The dataset of check-ins.
pub const DATASET: &str = "kiloclaw_controller_telemetry";

/// A text column.
pub struct Blob {
    /// The contract's name of its value.
    pub name: &'static str,
    value: for<'a> fn(&'a CheckIn<'_>, &'a str) -> &'a str,
}

/// A number column.
pub struct Double {
    /// The contract's name of its value.
    pub name: &'static str,
    value: fn(&CheckIn<'_>) -> f64,
}

/// `index1`: the sampling key, and the fastest column to filter by.
pub const INDEX: Blob = Blob { name: "sandboxId", value: |check_in, _| &check_in.sandbox_id };

/// `blob1` to `blob9`. An unknown value is `""`.
pub const BLOBS: [Blob; 9] = [
    Blob { name: "sandboxId", value: |check_in, _| &check_in.sandbox_id },
    Blob { name: "controllerVersion", value: |check_in, _| &check_in.controller_version },
    Blob { name: "controllerCommit", value: |check_in, _| &check_in.controller_commit },
    Blob {
        name: "openclawVersion",
        value: |check_in, _| check_in.openclaw_version.as_deref().unwrap_or_default(),
    },
    Blob {
        name: "openclawCommit",
        value: |check_in, _| check_in.openclaw_commit.as_deref().unwrap_or_default(),
    },
    Blob { name: "supervisorState", value: |check_in, _| &check_in.supervisor_state },
    Blob { name: "flyRegion", value: |_, region| region },
    Blob {
        name: "machineId",
        value: |check_in, _| check_in.machine_id.as_deref().unwrap_or_default(),
    },
    Blob {
        name: "lastExitReason",
        value: |check_in, _| check_in.last_exit_reason.as_deref().unwrap_or_default(),
    },
];

// 9 blobs x 1,024 B = 9,216 B < 16,000 B. The runtime silently drops a larger point, so no valid body may produce one.
const _: () = assert!(BLOBS.len() * MAX_STRING_BYTES <= AE_MAX_BLOB_BYTES);

/// `double1` to `double8`; a point has the last [two](DISK_DOUBLES) only if the client sends them.
pub const DOUBLES: [Double; 8] = [
    Double {
        name: "restartsSinceLastCheckin",
        value: |check_in| check_in.restarts_since_last_checkin,
    },
    Double { name: "totalRestarts", value: |check_in| check_in.total_restarts },
    Double { name: "uptimeSeconds", value: |check_in| check_in.uptime_seconds },
    Double { name: "loadAvg5m", value: |check_in| check_in.load_avg_5m },
    Double { name: "bandwidthBytesIn", value: |check_in| check_in.bandwidth_bytes_in },
    Double { name: "bandwidthBytesOut", value: |check_in| check_in.bandwidth_bytes_out },
    Double {
        name: "diskUsedBytes",
        value: |check_in| check_in.disk_used_bytes.unwrap_or_default(),
    },
    Double {
        name: "diskTotalBytes",
        value: |check_in| check_in.disk_total_bytes.unwrap_or_default(),
    },
];

/// Number of doubles at the end that are about the disk. Analytics Engine reads 0 where a point has no such double, so
/// readers treat 0 as unknown.
pub const DISK_DOUBLES: usize = 2;

/// A column by its name in Analytics Engine's SQL: `index1`, `blob6`, `double1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Index,
    Blob(usize),
    Double(usize),
}

impl Column {
    /// The column with this name in the contract. If the index and a blob hold the same value, returns the index, which
    /// is faster to filter by.
    ///
    /// # Panics
    ///
    /// If there is no such column. In a constant, where this function belongs, that is a compile error.
    #[must_use]
    #[expect(
        clippy::indexing_slicing,
        clippy::panic,
        reason = "in constants neither happens at run time"
    )]
    pub const fn of(name: &str) -> Self {
        if same(name, INDEX.name) {
            return Self::Index;
        }
        let mut i = 0;
        while i < BLOBS.len() {
            if same(name, BLOBS[i].name) {
                return Self::Blob(i + 1);
            }
            i += 1;
        }
        i = 0;
        while i < DOUBLES.len() {
            if same(name, DOUBLES[i].name) {
                return Self::Double(i + 1);
            }
            i += 1;
        }
        panic!("the layout has no column of this name")
    }
}

/// `==` for texts in constants.
#[expect(clippy::indexing_slicing, reason = "both are as long as the first")]
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("index1"),
            Self::Blob(n) => write!(f, "blob{n}"),
            Self::Double(n) => write!(f, "double{n}"),
        }
    }
}

/// A data point to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct DataPoint<'a> {
    /// `index1`
    pub index: &'a str,
    /// `blob1`, `blob2`, …
    pub blobs: [&'a str; BLOBS.len()],
    /// `double1`, `double2`, …
    pub doubles: [f64; DOUBLES.len()],
    /// Whether the check-in has disk values; otherwise the point ends before those.
    pub has_disk: bool,
}

/// The doubles to write: all, or without those about the disk.
#[must_use]
pub fn written(doubles: &[f64; DOUBLES.len()], has_disk: bool) -> &[f64] {
    let without = DOUBLES.len() - DISK_DOUBLES;
    if has_disk { doubles } else { doubles.get(..without).unwrap_or_default() }
}

impl<'a> DataPoint<'a> {
    /// Lays out a valid check-in.
    ///
    /// `fly_region` comes from a header, not from the validated body: it is truncated to a string's limit, and counts
    /// as missing if it has control characters.
    #[must_use]
    pub fn new(check_in: &'a CheckIn<'_>, fly_region: &'a str) -> Self {
        let fly_region = if has_control_characters(fly_region) { "" } else { fly_region };
        let fly_region = &fly_region[..fly_region.floor_char_boundary(MAX_STRING_BYTES)];
        Self {
            index: (INDEX.value)(check_in, fly_region),
            blobs: BLOBS.map(|blob| (blob.value)(check_in, fly_region)),
            doubles: DOUBLES.map(|double| (double.value)(check_in)),
            has_disk: check_in.disk_used_bytes.or(check_in.disk_total_bytes).is_some(),
        }
    }
}

/// Every slot with its value: `index1`, `blob1`, …, `double1`, …
fn slots() -> impl Iterator<Item = (String, &'static str)> {
    let numbered = |kind, names: Vec<&'static str>| {
        names.into_iter().enumerate().map(move |(i, name)| (format!("{kind}{}", i + 1), name))
    };
    numbered("index", vec![INDEX.name])
        .chain(numbered("blob", BLOBS.iter().map(|blob| blob.name).collect()))
        .chain(numbered("double", DOUBLES.iter().map(|double| double.name).collect()))
}

/// The layout as JSON, for programs in other languages: `{"dataset","index1","blob1",…}`.
#[must_use]
pub fn layout_json() -> String {
    let mut lines = vec![format!("  \"dataset\": \"{DATASET}\"")];
    lines.extend(slots().map(|(slot, name)| format!("  \"{slot}\": \"{name}\"")));
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// The layout as a Markdown table, for the documentation.
#[must_use]
pub fn layout_markdown() -> String {
    let rows: Vec<_> = slots().map(|(slot, name)| format!("| `{slot}` | `{name}` |")).collect();
    format!("| slot | value |\n| --- | --- |\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::limits::AE_MAX_INDEX_BYTES;

    const FULL: &str = r#"{"sandboxId":"S","machineId":"M","controllerVersion":"CV",
        "controllerCommit":"CC","openclawVersion":"OV","openclawCommit":"OC",
        "supervisorState":"running","totalRestarts":2,"restartsSinceLastCheckin":1,
        "uptimeSeconds":3,"loadAvg5m":4,"bandwidthBytesIn":5,"bandwidthBytesOut":6,
        "lastExitReason":"code:1","diskUsedBytes":7,"diskTotalBytes":8}"#;

    #[test]
    fn every_slot_holds_what_the_contract_says() {
        let check_in = CheckIn::parse(FULL.as_bytes()).unwrap();
        let point = DataPoint::new(&check_in, "fra");
        assert_eq!(point.index, "S");
        assert_eq!(point.blobs, ["S", "CV", "CC", "OV", "OC", "running", "fra", "M", "code:1"]);
        assert_eq!(
            point.doubles.map(f64::to_bits),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(f64::to_bits)
        );
    }

    #[test]
    fn a_point_has_the_disk_slots_only_if_the_check_in_has_a_disk_value() {
        let body = |used: &str, total: &str| FULL.replace('7', used).replace('8', total);
        for (used, total, written_doubles) in [
            ("null", "null", vec![]),
            ("0", "0", vec![0.0, 0.0]),
            ("5", "null", vec![5.0, 0.0]),
            ("null", "9", vec![0.0, 9.0]),
        ] {
            let body = body(used, total);
            let check_in = CheckIn::parse(body.as_bytes()).unwrap();
            let point = DataPoint::new(&check_in, "");
            let found = written(&point.doubles, point.has_disk);
            assert_eq!(found.get(6..).unwrap_or_default(), written_doubles, "{used} {total}");
        }
    }

    #[test]
    fn a_region_with_control_characters_is_stored_as_empty() {
        let check_in = CheckIn::parse(FULL.as_bytes()).unwrap();
        for region in ["\u{202e}fra", "\u{9b}31m", "f\tra"] {
            assert_eq!(DataPoint::new(&check_in, region).blobs[6], "");
        }
    }

    #[test]
    fn every_column_is_looked_up_by_name() {
        for (slot, name) in slots().filter(|(slot, _)| slot != "blob1") {
            assert_eq!(Column::of(name).to_string(), slot);
        }
    }

    #[test]
    #[should_panic(expected = "no column of this name")]
    fn a_name_outside_the_layout_panics() {
        let _ = Column::of("loadAvg5");
    }

    #[test]
    fn the_largest_point_stays_under_the_limits_of_analytics_engine() {
        let mut body: serde_json::Value = serde_json::from_str(FULL).unwrap();
        for value in body.as_object_mut().unwrap().values_mut().filter(|value| value.is_string()) {
            *value = "x".repeat(MAX_STRING_BYTES).into();
        }
        body["sandboxId"] = "x".repeat(AE_MAX_INDEX_BYTES).into();
        let body = body.to_string();
        let check_in = CheckIn::parse(body.as_bytes()).unwrap();
        let region = "é".repeat(10_000);
        let point = DataPoint::new(&check_in, &region);
        assert!(point.index.len() <= AE_MAX_INDEX_BYTES);
        assert!(point.blobs.iter().map(|blob| blob.len()).sum::<usize>() <= AE_MAX_BLOB_BYTES);
        assert_eq!(point.blobs[6].len(), MAX_STRING_BYTES);
    }

    /// `UPDATE=1 cargo test -p kiloclaw-check-in` rewrites the file.
    fn assert_up_to_date(path: &str, expected: impl FnOnce(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let expected = expected(&found);
        if option_env!("UPDATE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        } else {
            assert_eq!(found, expected, "{} is stale: run with UPDATE=1", path.display());
        }
    }

    #[test]
    fn the_layout_for_other_languages_is_up_to_date() {
        assert_up_to_date("data-point.json", |_| layout_json());
    }

    #[test]
    fn the_layout_in_the_documentation_is_up_to_date() {
        assert_up_to_date("../../docs/contract.md", |found| {
            let (before, rest) = found.split_once("<!-- layout -->\n").unwrap();
            let (_, after) = rest.split_once("<!-- /layout -->").unwrap();
            format!("{before}<!-- layout -->\n{}<!-- /layout -->{after}", layout_markdown())
        });
    }
}
