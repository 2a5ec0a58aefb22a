//! Analytics Engine's SQL, written from the contract's names.

use std::fmt::{self, Write};

use kiloclaw_checkin::data_point::{Column, DATASET};

use crate::Asked;
use crate::time::{Span, Time};

pub(crate) const SANDBOX_ID: Column = Column::of("sandboxId");
pub(crate) const CONTROLLER_VERSION: Column = Column::of("controllerVersion");
pub(crate) const CONTROLLER_COMMIT: Column = Column::of("controllerCommit");
pub(crate) const OPENCLAW_VERSION: Column = Column::of("openclawVersion");
pub(crate) const OPENCLAW_COMMIT: Column = Column::of("openclawCommit");
pub(crate) const SUPERVISOR_STATE: Column = Column::of("supervisorState");
pub(crate) const FLY_REGION: Column = Column::of("flyRegion");
pub(crate) const MACHINE_ID: Column = Column::of("machineId");
pub(crate) const LAST_EXIT_REASON: Column = Column::of("lastExitReason");
pub(crate) const RESTARTS: Column = Column::of("restartsSinceLastCheckin");
pub(crate) const TOTAL_RESTARTS: Column = Column::of("totalRestarts");
pub(crate) const UPTIME: Column = Column::of("uptimeSeconds");
pub(crate) const LOAD: Column = Column::of("loadAvg5m");
pub(crate) const BYTES_IN: Column = Column::of("bandwidthBytesIn");
pub(crate) const BYTES_OUT: Column = Column::of("bandwidthBytesOut");

/// A comparison of a column with a text, whatever the text holds.
///
/// Analytics Engine refuses literals with a quote or a backslash, escaped or not: such a text is compared
/// in hexadecimal digits, which sort as the bytes do.
pub(crate) fn compare(column: impl fmt::Display, operator: &str, text: &str) -> String {
    if is_literal(text) {
        return format!("{column} {operator} '{text}'");
    }
    format!("hex({column}) {operator} '{}'", hex(text))
}

/// Bytes of a list with its quotes and commas: Analytics Engine refuses queries of more than 10,000, and
/// the rest of a query takes some 1,000.
const LIST_BYTES: usize = 8_000;

/// A condition that holds where a column has one of these texts, of which the last are left out if they
/// are too long together.
pub(crate) fn one_of<'a>(column: Column, texts: impl Iterator<Item = &'a str>) -> String {
    let mut bytes = 0;
    let texts = texts.take_while(|text| {
        bytes += if is_literal(text) { text.len() } else { 2 * text.len() } + "'', ".len();
        bytes <= LIST_BYTES
    });
    let (literals, others): (Vec<_>, Vec<_>) = texts.partition(|text| is_literal(text));
    let list = |texts: Vec<String>| format!("IN ('{}')", texts.join("', '"));
    let literals_sql =
        format!("{column} {}", list(literals.into_iter().map(str::to_owned).collect()));
    if others.is_empty() {
        return literals_sql;
    }
    let others = list(others.into_iter().map(hex).collect());
    format!("({literals_sql} OR hex({column}) {others})")
}

/// Whether a text can stand in single quotes.
fn is_literal(text: &str) -> bool {
    !text.contains(['\'', '\\'])
}

/// As Analytics Engine's `hex` writes it.
fn hex(text: &str) -> String {
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

/// `FROM` and `WHERE`: the points within a span, of the sandboxes that may be seen. `WHERE` may go on
/// with `AND`.
pub(crate) fn points(span: Span, only: Option<&str>) -> String {
    let Span { after: Time(after), until: Time(until) } = span;
    let mut sql = format!(
        "FROM {DATASET} WHERE timestamp > toDateTime({after}) AND timestamp <= toDateTime({until})"
    );
    if let Some(sandbox) = only {
        let _ = write!(sql, " AND {}", compare(SANDBOX_ID, "=", sandbox));
    }
    sql
}

impl Asked<'_> {
    /// The points of the last seconds.
    pub(crate) fn points(&self, window: u64) -> String {
        points(Span::last(window, self.now), self.only)
    }
}

/// The check-ins that the points stand for.
pub(crate) const CHECK_INS: &str = "SUM(_sample_interval)";

/// For how many check-ins a point may stand: 1 if none was left out, 0 without points.
pub(crate) const SAMPLE_INTERVAL: &str = "max(_sample_interval)";

/// The sum of a column over the check-ins that the points stand for.
pub(crate) fn sum(column: Column) -> String {
    format!("SUM({column} * _sample_interval)")
}

/// What a column holds in the latest point.
pub(crate) fn latest(column: Column) -> String {
    format!("argMax({column}, timestamp)")
}

/// A quantile of a column over the check-ins that the points stand for.
pub(crate) fn quantile(level: &str, column: Column) -> String {
    format!("quantileExactWeighted({level})({column}, _sample_interval)")
}

/// When the first and the last of the points arrived.
pub(crate) const FIRST_SEEN: &str = "toUnixTimestamp(min(timestamp))";
pub(crate) const LAST_SEEN: &str = "toUnixTimestamp(max(timestamp))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_one_literal() {
        for (text, sql) in [
            ("", "index1 = ''"),
            ("sandbox-1", "index1 = 'sandbox-1'"),
            ("'", "hex(index1) = '27'"),
            ("\\", "hex(index1) = '5C'"),
            ("\\' OR 1 = 1 --", "hex(index1) = '5C27204F522031203D2031202D2D'"),
            ("ü'\n\0", "hex(index1) = 'C3BC270A00'"),
            ("ü\n\0", "index1 = 'ü\n\0'"),
        ] {
            assert_eq!(compare(SANDBOX_ID, "=", text), sql);
        }
        for (texts, sql) in [
            (&["a", "b"][..], "index1 IN ('a', 'b')"),
            (&["a", "o'b", "\\"], "(index1 IN ('a') OR hex(index1) IN ('6F2762', '5C'))"),
            (&["'"], "(index1 IN ('') OR hex(index1) IN ('27'))"),
        ] {
            assert_eq!(one_of(SANDBOX_ID, texts.iter().copied()), sql);
        }
        for text in ["sandbox-1", "'", &"x".repeat(1_000)] {
            let sql = one_of(SANDBOX_ID, std::iter::repeat_n(text, 1_000));
            assert!((6_000..=8_100).contains(&sql.len()), "{}", sql.len());
        }
    }

    #[test]
    fn columns_are_found_by_their_names() {
        assert_eq!(SANDBOX_ID.to_string(), "index1");
        assert_eq!(SUPERVISOR_STATE.to_string(), "blob6");
        assert_eq!(BYTES_OUT.to_string(), "double6");
    }
}
