//! Times, and the span of a query.

use std::fmt;

use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};

/// Seconds since 1970 in UTC, the resolution of Analytics Engine's timestamps. Serialized in RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The time this many seconds earlier, at least 1970.
    #[must_use]
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// The time this many seconds later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The seconds since an earlier time, 0 if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the step that contains this time; steps are aligned to 1970.
    #[must_use]
    pub const fn start_of(self, step: u64) -> Self {
        Self(self.0 - self.0 % step)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0).ok().and_then(|time| DateTime::from_timestamp(time, 0));
        // Only the year 262143 is out of range.
        f.write_str(&time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The span of a query: after `after`, up to and including `until`, which is the time of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) after: Time,
    pub(crate) until: Time,
}

impl Span {
    pub(crate) const fn last(seconds: u64, now: Time) -> Self {
        Self { after: now.minus(seconds), until: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Time(1_767_323_045).to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(serde_json::to_string(&Time(86_400)).unwrap(), r#""1970-01-02T00:00:00Z""#);
        assert_eq!(Time(u64::MAX).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn steps_start_at_multiples_of_their_length() {
        assert_eq!(Time(1_000).start_of(300), Time(900));
        assert_eq!(Time(900).start_of(300), Time(900));
        assert_eq!(Time(5).minus(10), Time(0));
        assert_eq!(Time(5).since(Time(10)), 0);
    }
}
