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

/// A text as a literal: whatever it holds, it stays one.
///
/// `\` is doubled as well as `'`: that is right where `\` escapes, as in `ClickHouse`, and where it does
/// not, the literal still ends where it should.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('\'')?;
        for part in self.0.split_inclusive(['\'', '\\']) {
            f.write_str(part)?;
            if let Some(special @ ('\'' | '\\')) = part.chars().next_back() {
                f.write_char(special)?;
            }
        }
        f.write_char('\'')
    }
}

/// `FROM` and `WHERE`: the points within a span, of the sandboxes that may be seen. `WHERE` may go on
/// with `AND`.
pub(crate) fn points(span: Span, only: Option<&str>) -> String {
    let Span { after: Time(after), until: Time(until) } = span;
    let mut sql = format!(
        "FROM {DATASET} WHERE timestamp > toDateTime({after}) AND timestamp <= toDateTime({until})"
    );
    if let Some(sandbox) = only {
        let _ = write!(sql, " AND {SANDBOX_ID} = {}", Text(sandbox));
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
        for (text, literal) in [
            ("", "''"),
            ("sandbox-1", "'sandbox-1'"),
            ("'", "''''"),
            ("\\", "'\\\\'"),
            ("\\' OR 1 = 1 --", "'\\\\'' OR 1 = 1 --'"),
            ("a'; SELECT 'b", "'a''; SELECT ''b'"),
            ("ü'\n\0", "'ü''\n\0'"),
        ] {
            assert_eq!(Text(text).to_string(), literal);
        }
    }

    #[test]
    fn columns_are_found_by_their_names() {
        assert_eq!(SANDBOX_ID.to_string(), "index1");
        assert_eq!(SUPERVISOR_STATE.to_string(), "blob6");
        assert_eq!(BYTES_OUT.to_string(), "double6");
    }
}
