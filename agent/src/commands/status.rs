//! `kiloclaw-agent status`: the health of the running agent and its process, from its state file.

use std::cmp::Reverse;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::cli::StatusArguments;
use crate::daemon::supervisor::HEALTHY_AFTER;
use crate::exit::Exit;
use crate::output;
use crate::secret::Redactor;
use crate::state::{self, Agent, LoadError, NotRunning, Process, State, Uptime};

/// How late a check-in may be before the agent counts as hanging: timers are inexact, and a machine may be busy.
const SLACK: Duration = Duration::from_secs(30);

/// Number of crashes in a row that count as a crash loop, even while the process is up for a moment.
const CRASH_LOOP: u32 = 3;

/// The output of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusReport<'a> {
    verdict: Health,
    /// The verdict in words.
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_file: Option<&'a Path>,
    /// Why the state file cannot be written. If it is set, the rest may be outdated.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_file_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Agent>,
    /// Uptime of the process, if it runs.
    #[serde(skip)]
    up_for: Option<Duration>,
}

/// In order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// No agent is running, its check-ins are not accepted, or it cannot read the process's state.
    CannotReport,
    ProcessUnhealthy,
    Healthy,
}

impl From<Health> for Exit {
    fn from(verdict: Health) -> Self {
        match verdict {
            Health::Healthy => Self::Done,
            Health::CannotReport => Self::Failed,
            Health::ProcessUnhealthy => Self::ProcessUnhealthy,
        }
    }
}

#[must_use]
pub fn run(arguments: &StatusArguments) -> Exit {
    let paths = arguments.state.paths();
    let now = SystemTime::now();
    let found = best(
        paths
            .iter()
            .filter_map(|path| State::load(path).transpose().map(|state| Found { path, state })),
    );
    // Where the agent would write. `paths` is never empty.
    let place = found.as_ref().map_or_else(|| paths.first(), |found| Some(found.path));
    let unwritable = place.and_then(|path| state::unwritable(path));
    // If the directory is missing, no agent has run there.
    let unwritable = unwritable.filter(|error| error.kind() != ErrorKind::NotFound);
    let mut status = match &found {
        None => {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            nobody(format!(
                "there is no state file {}: no agent has run, or it cannot write there, as its log says",
                paths.join(" or ")
            ))
        }
        Some(Found { path, state: Err(error) }) => nobody(unreadable(path, error)),
        Some(Found { state: Ok(State { agent: None, .. }), .. }) => {
            nobody("no agent is running: only `once` has written this state file".to_owned())
        }
        Some(Found { path, state: Ok(State { agent: Some(agent), sandbox_id, .. }) }) => {
            let observed = Observed {
                runs: agent.runs(),
                stopped: agent.command_is_stopped(),
                late: late(agent, now, Uptime::now()),
            };
            let (verdict, summary) = assess(agent, &observed, now, unwritable.as_ref());
            let seen_until = if observed.runs.is_ok() { now } else { agent.process.seen.into() };
            StatusReport {
                verdict,
                summary: plain(&summary),
                sandbox_id: Some(sandbox_id),
                state_file: Some(path),
                state_file_error: None,
                agent: Some(agent),
                up_for: up_for(&agent.process, seen_until),
            }
        }
    };
    status.state_file_error = unwritable.map(|error| error.to_string());
    let text = if arguments.json {
        serde_json::to_string_pretty(&status).map_err(|error| error.to_string())
    } else {
        Ok(in_words(&status, now))
    };
    match text {
        Ok(text) => match output::print_result(&text) {
            Exit::Done => status.verdict.into(),
            failed => failed,
        },
        Err(error) => {
            output::error(&error);
            Exit::OutputFailed
        }
    }
}

fn nobody(summary: String) -> StatusReport<'static> {
    StatusReport {
        verdict: Health::CannotReport,
        summary,
        sandbox_id: None,
        state_file: None,
        state_file_error: None,
        agent: None,
        up_for: None,
    }
}

/// A state file, at one of its possible locations.
struct Found<'a> {
    path: &'a PathBuf,
    state: Result<State, LoadError>,
}

/// The state to show if there are several: that of a running agent, else an unreadable one, which may belong to a
/// running agent, else the newest. The state file of a login session may be weeks old.
fn best<'a>(found: impl Iterator<Item = Found<'a>>) -> Option<Found<'a>> {
    let rank = |found: &Found| match &found.state {
        Ok(State { agent: Some(agent), .. }) if agent.runs().is_ok() => (3, None),
        Err(_) => (2, None),
        Ok(State { agent: Some(agent), .. }) => (1, Some(agent.updated)),
        Ok(State { agent: None, .. }) => (0, None),
    };
    // `max_by_key` would take the last of equals, this takes the first.
    found.min_by_key(|found| Reverse(rank(found)))
}

/// Removes control characters: an agent copied the state file's texts from servers and programs.
fn plain(text: &str) -> String {
    Redactor::default().clean(text)
}

fn unreadable(path: &Path, error: &LoadError) -> String {
    let path = path.display();
    match error {
        LoadError::Read(error) => format!(
            "the state file {path} cannot be read: {error}; ask as the agent's user, or as root"
        ),
        LoadError::Parse(_) => format!("{error} ({path})"),
    }
}

/// Current uptime of the process: the state file has the uptime at the last check-in.
fn up_for(process: &Process, now: SystemTime) -> Option<Duration> {
    let then = Duration::try_from_secs_f64(process.uptime_seconds.trunc()).unwrap_or_default();
    let since = Duration::from_secs(process.seen.before(now).as_secs());
    let up = process.state == "running";
    up.then(|| then.saturating_add(since))
}

/// How long ago the next check-in was due, by the machine's uptime. By the wall clock, which may be set and runs while
/// the machine sleeps, a healthy agent could seem to hang.
fn late(agent: &Agent, now: SystemTime, uptime: Uptime) -> Duration {
    let by_uptime = agent.next_attempt_uptime.map(|at| at.before(uptime));
    // State files of older versions have only the wall clock.
    let late = by_uptime.or_else(|| agent.next_attempt.map(|at| at.before(now)));
    late.unwrap_or_default()
}

/// Observations at the time of `status`, which the state file does not have.
struct Observed {
    runs: Result<(), NotRunning>,
    /// Whether a signal has stopped the command.
    stopped: bool,
    /// How long ago the next check-in was due.
    late: Duration,
}

/// Returns the health, and one line that explains it.
fn assess(
    agent: &Agent,
    observed: &Observed,
    now: SystemTime,
    unwritable: Option<&io::Error>,
) -> (Health, String) {
    use Health::{CannotReport, Healthy, ProcessUnhealthy};

    let process = &agent.process;
    let &Observed { runs, stopped, late } = observed;
    if let Err(gone) = runs {
        return (CannotReport, format!("the agent is not running: {gone}"));
    }
    let patience = Duration::from_secs(agent.attempt_timeout_seconds) + SLACK;
    if late > patience {
        let late = humantime::format_duration(Duration::from_secs(late.as_secs()));
        let summary = match unwritable {
            None => format!("the agent hangs: its next check-in was due {late} ago"),
            Some(error) => format!(
                "the agent's health is unknown: it cannot write its state file, whose last entry is a \
                 check-in that was due {late} ago: {error}"
            ),
        };
        return (CannotReport, summary);
    }
    if stopped {
        let summary = "the process is unhealthy: a signal has stopped it; SIGCONT continues it";
        return (ProcessUnhealthy, summary.to_owned());
    }
    match process.state.as_str() {
        "running" | "starting" => {}
        "unknown" => {
            let summary = "the agent cannot read the state of the process; `doctor` says why";
            return (CannotReport, summary.to_owned());
        }
        state => return (ProcessUnhealthy, format!("the process is unhealthy: {state}")),
    }
    let recovered = up_for(process, now).is_some_and(|up_for| up_for >= HEALTHY_AFTER);
    if process.crashes_in_a_row >= CRASH_LOOP && !recovered {
        let summary = format!(
            "the process is unhealthy: it crashed {} times in a row and restarted less than 30 seconds ago",
            process.crashes_in_a_row
        );
        return (ProcessUnhealthy, summary);
    }
    match (agent.failures_in_a_row, &agent.last_error) {
        (0, _) if agent.last_accepted.is_some() => (Healthy, "healthy".to_owned()),
        (0, _) => (Healthy, "healthy; the first check-in is not due yet".to_owned()),
        (failures, error) => {
            let why = error.as_ref().map_or("unknown", |error| &error.code);
            let count = if failures == 1 { "check-in was" } else { "check-ins were" };
            (
                CannotReport,
                format!("cannot report: the last {failures} {count} not accepted: {why}"),
            )
        }
    }
}

/// Prints for people.
fn in_words(status: &StatusReport, now: SystemTime) -> String {
    let mut text = status.summary.clone();
    let error = status.state_file_error.as_ref();
    let error = error.map(|error| format!("cannot be written, and may be outdated: {error}"));
    let (Some(agent), Some(sandbox_id)) = (status.agent, status.sandbox_id) else {
        if let Some(error) = error {
            let _ = write!(text, "\n  {:<17} {error}", "state file:");
        }
        return text;
    };
    let ago = |at: state::Time| {
        let seconds = Duration::from_secs(at.before(now).as_secs());
        format!("{at} ({} ago)", humantime::format_duration(seconds))
    };
    let process = &agent.process;
    let exit = match process.last_exit_reason.as_deref() {
        None => "unknown",
        Some("") => "none yet",
        Some(reason) => reason,
    };
    let up_for = status.up_for.map_or_else(String::new, |up_for| {
        format!(", up for {}", humantime::format_duration(up_for))
    });
    let next_start = process.next_start.map_or_else(String::new, |at| {
        let left = Duration::from_secs(at.after(now).as_secs());
        format!(", started again at {at} (in {})", humantime::format_duration(left))
    });
    let state_file = status.state_file.map(|path| path.display().to_string());
    let state_file = [state_file, error].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let lines = [
        ("sandbox", sandbox_id.to_owned()),
        (
            "agent",
            format!("process {}, {}, since {}", agent.pid, agent.version, ago(agent.started)),
        ),
        (
            "process",
            format!(
                "{}{up_for}{next_start}, restarts {}, last exit {exit}; seen {}",
                process.state,
                process.restarts,
                ago(process.seen)
            ),
        ),
        ("last accepted", agent.last_accepted.map_or_else(|| "never".to_owned(), ago)),
        (
            "last error",
            agent.last_error.as_ref().map_or_else(
                || "none".to_owned(),
                |error| format!("{}: {}: {}", ago(error.at), error.code, error.message),
            ),
        ),
        ("failed in a row", agent.failures_in_a_row.to_string()),
        (
            "next attempt",
            agent.next_attempt.map_or_else(
                || "none: the agent is ending".to_owned(),
                |at| {
                    let left = Duration::from_secs(at.after(now).as_secs());
                    format!("{at} (in {})", humantime::format_duration(left))
                },
            ),
        ),
        ("state file", state_file),
    ];
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {:<17} {}", format!("{name}:"), plain(&value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Time;

    const HOUR: Duration = Duration::from_hours(1);

    /// An agent whose next check-in was due at `now`.
    fn due(now: SystemTime, uptime: Option<Uptime>) -> Agent {
        let status = crate::collect::process::ProcessStatus {
            state: "running".to_owned(),
            ..crate::collect::process::ProcessStatus::default()
        };
        Agent {
            next_attempt: Some(Time::new(now)),
            next_attempt_uptime: uptime,
            process: Process::new(Some(&status), Time::new(now)),
            ..Agent::starting(None, now)
        }
    }

    fn observed(late: Duration) -> Observed {
        Observed { runs: Ok(()), stopped: false, late }
    }

    #[test]
    fn a_wall_clock_change_neither_causes_nor_hides_a_hang() {
        let (now, uptime) = (SystemTime::now(), Uptime::now());
        let agent = due(now, Some(uptime));
        for wall in [now - 6 * HOUR, now, now + 6 * HOUR] {
            let verdict =
                |uptime| assess(&agent, &observed(late(&agent, wall, uptime)), wall, None);
            assert_eq!(verdict(uptime).0, Health::Healthy);
            let (verdict, summary) = verdict(uptime.plus(HOUR));
            assert_eq!(verdict, Health::CannotReport);
            assert_eq!(summary, "the agent hangs: its next check-in was due 1h ago");
        }
    }

    #[test]
    fn without_a_recorded_uptime_the_wall_clock_decides() {
        let now = SystemTime::now();
        let agent = due(now, None);
        assert_eq!(late(&agent, now + HOUR, Uptime::now()), HOUR);
    }

    #[test]
    fn an_unwritable_state_file_is_not_reported_as_a_hang() {
        let agent = due(SystemTime::now(), Some(Uptime::now()));
        let (now, full) = (SystemTime::now(), ErrorKind::StorageFull.into());
        let (verdict, summary) = assess(&agent, &observed(HOUR), now, Some(&full));
        assert_eq!(verdict, Health::CannotReport);
        assert!(summary.contains("cannot write its state file"), "{summary}");
        assert_eq!(assess(&agent, &observed(Duration::ZERO), now, Some(&full)).0, Health::Healthy);
    }

    #[test]
    fn a_process_in_a_crash_loop_is_unhealthy_until_it_is_up_for_30_seconds() {
        let now = SystemTime::now();
        let mut agent = due(now, Some(Uptime::now()));
        for (crashes, up_for, expected) in [
            (2, 0, Health::Healthy),
            (3, 0, Health::ProcessUnhealthy),
            (3, 29, Health::ProcessUnhealthy),
            (3, 30, Health::Healthy),
        ] {
            agent.process.crashes_in_a_row = crashes;
            let now = now + Duration::from_secs(up_for);
            let assessed = assess(&agent, &observed(Duration::ZERO), now, None);
            assert_eq!(assessed.0, expected, "{crashes}: {}", assessed.1);
        }
    }

    #[test]
    fn uptime_extends_from_the_last_reading_to_now() {
        let now = SystemTime::now();
        let status = crate::collect::process::ProcessStatus {
            state: "running".to_owned(),
            uptime_seconds: 12.9,
            ..crate::collect::process::ProcessStatus::default()
        };
        let seen = |status: &_| Process::new(Some(status), Time::new(now - HOUR));
        assert_eq!(up_for(&seen(&status), now), Some(HOUR + Duration::from_secs(12)));
        let crashed = Process { state: "crashed".to_owned(), ..seen(&status) };
        assert_eq!(up_for(&crashed, now), None);
    }
}
