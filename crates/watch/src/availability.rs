//! The share of time in which sandboxes reported.

use kiloclaw_fleet::Time;

use crate::settings::Settings;
use crate::state::State;
use crate::transition::Kind;

/// How long sandboxes reported within a window, in seconds, summed up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Availability {
    /// Number of sandboxes; for the fleet, of those that checked in during the last hour or do not report.
    pub sandboxes: u64,
    /// Seconds in which they reported. A new sandbox counts as reporting before its first check-in.
    pub reporting_seconds: u64,
    /// Seconds in which they were silent or overdue.
    pub silent_seconds: u64,
    /// Seconds in which they did not report, as planned or on purpose. The share excludes them.
    pub absent_seconds: u64,
    /// Reporting seconds as a share of reporting and silent seconds, 0 to 1; `None` if all were absent all the time.
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
    fn the_share_excludes_absences() {
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
        // The survey did not count sandboxes that were out before it.
        state.watcher.surveyed_cut = Time(9_000);
        let all = availability(&settings, &state, Time(500), Time(1_000), None, []);
        assert_eq!(all.sandboxes, 6);
        // Unexpected overlaps must not make a time negative.
        assert_eq!(window(&state, Some("a"), &[(Kind::Absent, 9_999)]).reporting_seconds, 0);
    }
}
