//! Analytics Engine's SQL, written from the contract's names.

use std::fmt::{self, Write};

use kiloclaw_checkin::data_point::{Column, DATASET};
use kiloclaw_checkin::limits::{MAX_BYTES, MAX_LOAD, MAX_RESTARTS, MAX_UPTIME_SECONDS};

use crate::time::{Span, Time};
use crate::{Asked, ON_PURPOSE};

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

/// The longest query that Analytics Engine takes, in characters. Its documentation does not say so; its
/// answer to a longer one does (`SQL was excessively long, exceeded maximum length: 10000`).
pub(crate) const MAX_SQL: usize = 10_000;

/// How much of a text a report shows, in characters. A contract's text may have 1,024 bytes, of which JSON
/// makes 6,144 if all are control characters; versions, states, regions and machines' ids are shorter than
/// this, and 9 texts of a sandbox come to 9 x 96 x 6 B = 5,184 B at most.
pub(crate) const LONGEST_TEXT: usize = 96;

/// A comparison of a column with a text, whatever the text holds.
///
/// Analytics Engine refuses literals with a quote or a backslash, escaped or not: such a text is compared
/// in hexadecimal digits, which sort as the bytes do.
pub(crate) fn compare(column: impl fmt::Display, operator: &str, text: &str) -> String {
    if !text.contains(['\'', '\\']) {
        return format!("{column} {operator} '{text}'");
    }
    let digits = text.bytes().fold(String::with_capacity(2 * text.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02X}");
        digits
    });
    format!("hex({column}) {operator} '{digits}'")
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

/// A number, but no more than the contract allows: points from before it had bounds hold any.
fn bounded(column: Column) -> String {
    let highest = match column {
        RESTARTS | TOTAL_RESTARTS => MAX_RESTARTS,
        UPTIME => MAX_UPTIME_SECONDS,
        LOAD => MAX_LOAD,
        _ => MAX_BYTES,
    };
    // Whole numbers, which must be written as doubles: both branches have to be of one type.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, up to 2^53"
    )]
    let highest = highest as u64;
    format!("if({column} > {highest}.0, {highest}.0, {column})")
}

/// What a column adds up to over the check-ins that a point stands for.
pub(crate) fn weighed(column: Column) -> String {
    format!("{} * _sample_interval", bounded(column))
}

/// The sum of a column over the check-ins that the points stand for. Of numbers within their bounds, it is
/// finite: 2^53 times 10^12 check-ins is 10^28.
pub(crate) fn sum(column: Column) -> String {
    format!("SUM({})", weighed(column))
}

/// The highest number in a column.
pub(crate) fn highest(column: Column) -> String {
    format!("max({})", bounded(column))
}

/// The start of a text, which is all of it unless somebody wants the report to be large.
pub(crate) fn start_of(text: impl fmt::Display) -> String {
    format!("substring({text}, 1, {LONGEST_TEXT})")
}

/// What a column holds in the latest point.
pub(crate) fn latest(column: Column) -> String {
    match column {
        Column::Double(_) => format!("argMax({}, timestamp)", bounded(column)),
        Column::Index | Column::Blob(_) => start_of(format_args!("argMax({column}, timestamp)")),
    }
}

/// An expression over a sandbox's points: 1 if it is off on purpose, 0 if not.
///
/// Its last check-in says so, and comes from the machine that was there before: a stranger's good-bye does
/// not explain why that one fell silent.
#[must_use]
pub fn on_purpose() -> String {
    let states = format!("'{}'", ON_PURPOSE.join("', '"));
    format!(
        "if(argMax({SUPERVISOR_STATE}, timestamp) IN ({states}) \
         AND argMax({MACHINE_ID}, timestamp) = argMax({MACHINE_ID}, \
         if({SUPERVISOR_STATE} IN ({states}), 0, toUnixTimestamp(timestamp))), 1, 0)"
    )
}

/// A quantile of a column over the check-ins that the points stand for.
pub(crate) fn quantile(level: &str, column: Column) -> String {
    format!("quantileExactWeighted({level})({}, _sample_interval)", bounded(column))
}

/// Splits a query that is too long into at most `most` pieces: `make` writes one with some of the
/// conditions, of which one has to hold. Returns how many of the conditions are in them, too.
pub(crate) fn in_pieces(
    conditions: impl IntoIterator<Item = String>,
    most: usize,
    make: impl Fn(&str) -> String,
) -> (Vec<String>, usize) {
    const OR: &str = " OR ";
    let room = MAX_SQL.saturating_sub(make("").chars().count());
    let mut pieces = Vec::new();
    let (mut piece, mut used, mut covered) = (String::new(), 0, 0);
    for condition in conditions {
        let length = OR.len() + condition.chars().count();
        if used + length > room && !piece.is_empty() {
            pieces.push(make(&piece));
            piece.clear();
            used = 0;
        }
        if pieces.len() == most || length > room {
            break;
        }
        if !piece.is_empty() {
            piece.push_str(OR);
        }
        piece.push_str(&condition);
        used += length;
        covered += 1;
    }
    if !piece.is_empty() {
        pieces.push(make(&piece));
    }
    (pieces, covered)
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
    }

    #[test]
    fn a_query_that_is_too_long_is_split() {
        let make = |condition: &str| format!("SELECT 1 FROM t WHERE {condition}");
        let conditions = |n| (0..n).map(|i| format!("a = {i:0>95}"));
        let (queries, covered) = in_pieces(conditions(250), 4, make);
        assert_eq!((queries.len(), covered), (3, 250));
        assert!(queries.iter().all(|sql| sql.len() <= MAX_SQL), "{queries:?}");
        assert_eq!(queries.iter().map(|sql| sql.matches("a = ").count()).sum::<usize>(), 250);
        let (queries, covered) = in_pieces(conditions(250), 2, make);
        assert_eq!(queries.iter().map(|sql| sql.matches("a = ").count()).sum::<usize>(), covered);
        assert_eq!(queries.len(), 2);
        assert_eq!(in_pieces(conditions(0), 2, make), (vec![], 0));
        assert_eq!(
            in_pieces([String::from_utf8(vec![b'x'; MAX_SQL]).unwrap()], 2, make),
            (vec![], 0)
        );
    }

    #[test]
    fn columns_are_found_by_their_names() {
        assert_eq!(SANDBOX_ID.to_string(), "index1");
        assert_eq!(SUPERVISOR_STATE.to_string(), "blob6");
        assert_eq!(BYTES_OUT.to_string(), "double6");
    }
}
