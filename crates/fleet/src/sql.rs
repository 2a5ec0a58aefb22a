//! Analytics Engine's SQL, built from the contract's names.

use std::fmt::{self, Write};

use kiloclaw_check_in::data_point::{Column, DATASET};
use kiloclaw_check_in::limits::{MAX_BYTES, MAX_LOAD, MAX_RESTARTS, MAX_UPTIME_SECONDS};

use crate::time::{Span, Time};
use crate::{ON_PURPOSE, QueryScope};

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
pub(crate) const DISK_USED: Column = Column::of("diskUsedBytes");
pub(crate) const DISK_TOTAL: Column = Column::of("diskTotalBytes");

/// Maximum length of a query that Analytics Engine accepts, in characters. Its documentation does not mention the
/// limit, but its error does (`SQL was excessively long, exceeded maximum length: 10000`).
pub(crate) const MAX_SQL: usize = 10_000;

/// Reports truncate texts to this many characters. The contract allows texts of 1,024 bytes, which are 6,144 bytes in
/// JSON if all are control characters. Ordinary versions, states, regions and machine ids are shorter, and the 9 texts
/// of a sandbox take 9 x 96 x 6 B = 5,184 B at most.
pub const LONGEST_TEXT: usize = 96;

/// A comparison of a column with any text.
///
/// Analytics Engine refuses literals with a quote or a backslash, escaped or not. So the comparison of such a text uses
/// hexadecimal digits, which have the same order as the bytes.
pub(crate) fn compare(column: impl fmt::Display, operator: &str, text: &str) -> String {
    if is_literal(text) {
        format!("{column} {operator} '{text}'")
    } else {
        format!("hex({column}) {operator} '{}'", hex(text))
    }
}

/// Whether a column begins with a text. Unlike `LIKE`, this has no wildcards.
pub(crate) fn starts_with(column: Column, text: &str) -> String {
    if is_literal(text) {
        format!("startsWith({column}, '{text}')")
    } else {
        format!("startsWith(hex({column}), '{}')", hex(text))
    }
}

/// Whether a text can be a quoted literal.
fn is_literal(text: &str) -> bool {
    !text.contains(['\'', '\\'])
}

/// Hexadecimal digits as Analytics Engine's `hex` writes them.
fn hex(text: &str) -> String {
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02X}");
        digits
    })
}

/// `FROM` and `WHERE` for the points within a span, of the sandboxes that the principal may see. `AND` may follow.
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

impl QueryScope<'_> {
    /// The points of the last seconds.
    pub(crate) fn points(&self, window: u64) -> String {
        points(Span::last(window, self.now), self.only)
    }
}

/// The number of check-ins that the points stand for.
pub(crate) const CHECK_INS: &str = "SUM(_sample_interval)";

/// The highest sampling interval: 1 if nothing was sampled, 0 without points.
pub(crate) const SAMPLE_INTERVAL: &str = "max(_sample_interval)";

/// A number up to the contract's bound: points from before there were bounds hold any number.
fn bounded(column: Column) -> String {
    let highest = match column {
        RESTARTS | TOTAL_RESTARTS => MAX_RESTARTS,
        UPTIME => MAX_UPTIME_SECONDS,
        LOAD => MAX_LOAD,
        // Compares in MiB, which is exact. Analytics Engine was seen to read a literal from 10^14 on as an integer, and
        // `if` then refuses to mix it with a double.
        _ => {
            const MIB: f64 = 1_048_576.0;
            let most = literal(MAX_BYTES / MIB);
            let mib = literal(MIB);
            return format!("if({column} / {mib} > {most}, {most}, {column} / {mib}) * {mib}");
        }
    };
    let highest = literal(highest);
    format!("if({column} > {highest}, {highest}, {column})")
}

/// A whole number as a double: both branches of an `if` must have the same type.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, up to 2^53")]
fn literal(whole: f64) -> String {
    format!("{}.0", whole as u64)
}

/// A column, weighted by the number of check-ins that a point represents.
pub(crate) fn weighed(column: Column) -> String {
    format!("{} * _sample_interval", bounded(column))
}

/// The weighted sum of a column. With bounded numbers it is finite: 2^53 times 10^12 check-ins is 10^28.
pub(crate) fn sum(column: Column) -> String {
    format!("SUM({})", weighed(column))
}

/// The maximum of a column.
pub(crate) fn highest(column: Column) -> String {
    format!("max({})", bounded(column))
}

/// A truncated text; only a hostile text is longer.
pub(crate) fn start_of(text: impl fmt::Display) -> String {
    format!("substring({text}, 1, {LONGEST_TEXT})")
}

/// The value of a column in the latest point.
pub(crate) fn latest(column: Column) -> String {
    match column {
        Column::Double(_) => format!("argMax({}, timestamp)", bounded(column)),
        Column::Index | Column::Blob(_) => start_of(format_args!("argMax({column}, timestamp)")),
    }
}

/// 1 if a sandbox is off on purpose, else 0; over its points.
///
/// Its last check-in must say so and come from the machine that checked in before: another machine's planned stop does
/// not explain why that machine fell silent.
#[must_use]
pub fn on_purpose() -> String {
    let states = format!("'{}'", ON_PURPOSE.join("', '"));
    format!(
        "if(argMax({SUPERVISOR_STATE}, timestamp) IN ({states}) \
         AND argMax({MACHINE_ID}, timestamp) = argMax({MACHINE_ID}, \
         if({SUPERVISOR_STATE} IN ({states}), 0, toUnixTimestamp(timestamp))), 1, 0)"
    )
}

/// A weighted quantile of a column.
pub(crate) fn quantile(level: &str, column: Column) -> String {
    format!("quantileExactWeighted({level})({}, _sample_interval)", bounded(column))
}

/// Queries about these sandboxes, in at most `most` pieces within the length limit. `make` builds a query from a
/// condition on the sandbox. Also returns the number of sandboxes that the pieces cover.
///
/// Not generic, because it would be compiled once for each caller.
pub(crate) fn in_pieces(
    ids: &[&str],
    most: usize,
    make: &dyn Fn(&str) -> String,
) -> (Vec<String>, usize) {
    let both = Ids { literals: String::new(), digits: "''".to_owned() };
    let room = MAX_SQL.saturating_sub(make(&both.condition()).chars().count());
    let mut pieces = Vec::new();
    let (mut piece, mut used, mut covered) = (Ids::default(), 0, 0);
    for &id in ids {
        // With quotes and a comma; or as hexadecimal digits if the id cannot be a literal.
        let length = if is_literal(id) { id.chars().count() } else { 2 * id.len() } + "'', ".len();
        if used + length > room && used > 0 {
            pieces.push(make(&std::mem::take(&mut piece).condition()));
            used = 0;
        }
        if pieces.len() == most || length > room {
            break;
        }
        piece.add(id);
        used += length;
        covered += 1;
    }
    if used > 0 {
        pieces.push(make(&piece.condition()));
    }
    (pieces, covered)
}

/// Lists of sandboxes: those that a query can name as literals, and the others in hexadecimal digits.
#[derive(Default)]
struct Ids {
    literals: String,
    digits: String,
}

impl Ids {
    fn add(&mut self, id: &str) {
        let (list, text) = if is_literal(id) {
            (&mut self.literals, id.to_owned())
        } else {
            (&mut self.digits, hex(id))
        };
        *list += if list.is_empty() { "'" } else { ", '" };
        *list += &text;
        list.push('\'');
    }

    fn condition(&self) -> String {
        let Self { literals, digits } = self;
        let literals = if literals.is_empty() { "''" } else { literals };
        if digits.is_empty() {
            return format!("{SANDBOX_ID} IN ({literals})");
        }
        format!("({SANDBOX_ID} IN ({literals}) OR hex({SANDBOX_ID}) IN ({digits}))")
    }
}

/// The times of the first and the last point.
pub(crate) const FIRST_SEEN: &str = "toUnixTimestamp(min(timestamp))";
pub(crate) const LAST_SEEN: &str = "toUnixTimestamp(max(timestamp))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_one_literal() {
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
    fn a_prefix_becomes_one_literal() {
        for (text, sql) in [
            ("sbx-1%_*", "startsWith(index1, 'sbx-1%_*')"),
            ("o'", "startsWith(hex(index1), '6F27')"),
            ("\\", "startsWith(hex(index1), '5C')"),
        ] {
            assert_eq!(starts_with(SANDBOX_ID, text), sql);
        }
    }

    #[test]
    fn ids_beyond_the_query_length_limit_are_split_across_queries() {
        let make = |condition: &str| format!("SELECT 1 FROM t WHERE {condition}");
        let id_count =
            |queries: &[String]| queries.iter().map(|sql| sql.matches("00").count()).sum::<usize>();
        for id in ["x00", "'00", "x00xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'x"] {
            let ids = vec![id; 3_000];
            let (queries, covered) = in_pieces(&ids, 100, &make);
            assert_eq!(covered, 3_000);
            assert!(queries.iter().all(|sql| sql.len() <= MAX_SQL), "{id}");
            assert!(queries.iter().rev().skip(1).all(|sql| sql.len() > MAX_SQL - 200), "{id}");
            let (queries, covered) = in_pieces(&ids, 2, &make);
            assert_eq!(queries.len(), 2);
            if id == "x00" {
                assert_eq!(id_count(&queries), covered);
            }
        }
        assert_eq!(in_pieces(&[], 2, &make), (vec![], 0));
        assert_eq!(in_pieces(&[&*"x".repeat(MAX_SQL)], 2, &make), (vec![], 0));
        let (queries, _) = in_pieces(&["a", "o'b", "b"], 2, &make);
        assert_eq!(
            queries,
            ["SELECT 1 FROM t WHERE (index1 IN ('a', 'b') OR hex(index1) IN ('6F2762'))"]
        );
    }

    #[test]
    fn columns_are_looked_up_by_name() {
        assert_eq!(SANDBOX_ID.to_string(), "index1");
        assert_eq!(SUPERVISOR_STATE.to_string(), "blob6");
        assert_eq!(BYTES_OUT.to_string(), "double6");
    }
}
