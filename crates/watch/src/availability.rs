//! Which share of the time sandboxes reported.

use kiloclaw_fleet::Time;

use crate::settings::Settings;
use crate::state::State;
use crate::transition::Kind;

/// How long sandboxes reported within a window, in seconds, summed up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Availability {
    /// Number of sandboxes: of the fleet, those that checked in during the last hour or do not report.
    pub sandboxes: u64,
    /// They reported. A sandbox that is new counts as reporting before.
    pub reporting_seconds: u64,
    /// They did not, and should have: silent or overdue.
    pub silent_seconds: u64,
    /// They did not, as planned or on purpose. This is no part of the share.
    pub absent_seconds: u64,
    /// Reporting seconds of reporting and silent ones, 0 to 1; `None` if they were absent all the time.
    pub share: Option<f64>,
}

/// Sums up a window, which ends at `until`, of one sandbox or of all. `closed` are the rows of
/// [`closed_seconds`](crate::schema::closed_seconds).
pub fn availability(
    settings: &Settings,
    state: &State,
    after: Time,
    until: Time,
    sandbox: Option<&str>,
    closed: impl IntoIterator<Item = (Kind, u64)>,
) -> Availability {
    let (mut silent, mut absent) = (0_u64, 0_u64);
    let mut add = |kind, seconds| match kind {
        Kind::Silent | Kind::Overdue => silent = silent.saturating_add(seconds),
        Kind::Stopped | Kind::Absent => absent = absent.saturating_add(seconds),
        _ => {}
    };
    for (kind, seconds) in closed {
        add(kind, seconds);
    }
    for (kind, since) in state.statuses(sandbox) {
        add(kind, until.since(since.max(after)));
    }
    let sandboxes = if sandbox.is_some() { 1 } else { state.sandboxes_in_all(settings) };
    let all = sandboxes.saturating_mul(until.since(after));
    let absent_seconds = absent.min(all);
    let silent_seconds = silent.min(all - absent_seconds);
    let reporting_seconds = all - absent_seconds - silent_seconds;
    let counted = reporting_seconds + silent_seconds;
    #[expect(clippy::cast_precision_loss, reason = "digits that nobody reads")]
    let share = (counted > 0).then(|| reporting_seconds as f64 / counted as f64);
    Availability { sandboxes, reporting_seconds, silent_seconds, absent_seconds, share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Population, Sandbox, Status};

    #[test]
    fn absences_are_no_part_of_the_share() {
        let settings = Settings::default();
        let mut state = State::default();
        let row = |status, since| Sandbox {
            status,
            since: Time(since),
            last_seen: Time(since + 1),
            ..Sandbox::default()
        };
        state.sandboxes.insert("a".into(), row(Status::Silent, 900));
        state.sandboxes.insert("b".into(), row(Status::Stopped, 0));
        state.watcher.population = vec![Population { region: "fra".into(), sandboxes: 4 }];
        let window = |state: &State, sandbox, closed: &[(Kind, u64)]| {
            availability(&settings, state, Time(500), Time(1_000), sandbox, closed.iter().copied())
        };
        let one = window(&state, Some("a"), &[(Kind::Silent, 50), (Kind::Absent, 100)]);
        assert_eq!(
            (one.reporting_seconds, one.silent_seconds, one.absent_seconds, one.share),
            (250, 150, 100, Some(0.625)),
        );
        assert_eq!(window(&state, Some("b"), &[]).share, None);
        let all = window(&state, None, &[]);
        assert_eq!((all.sandboxes, all.silent_seconds, all.absent_seconds), (4, 100, 500));
        // Who is out since before the survey was not counted in it.
        state.watcher.surveyed_cut = Time(9_000);
        let all = availability(&settings, &state, Time(500), Time(1_000), None, []);
        assert_eq!(all.sandboxes, 6);
        // Overlaps that should not be cannot make a negative time.
        assert_eq!(window(&state, Some("a"), &[(Kind::Absent, 9_999)]).reporting_seconds, 0);
    }
}
