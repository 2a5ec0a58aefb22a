//! `kiloclaw-agent status`: how the running agent and its process are, from its state file.

use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, test_kill_process};
use serde::Serialize;

use crate::cli::StatusArguments;
use crate::exit::Exit;
use crate::output;
use crate::state::{self, Agent, LoadError, State, Uptime};

/// How late an attempt may be before the agent is taken to hang: timers are not that exact, and a
/// machine may be busy.
const SLACK: Duration = Duration::from_secs(30);

/// All that is told, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    verdict: Verdict,
    /// The verdict in words.
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    /// Why the state file cannot be written; then all the rest may be old.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_file_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Agent>,
}

/// In the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Nobody reports.
    CannotReport,
    /// The process is not well.
    ProcessUnhealthy,
    Healthy,
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Healthy => Self::Done,
            Verdict::CannotReport => Self::Failed,
            Verdict::ProcessUnhealthy => Self::ProcessUnhealthy,
        }
    }
}

/// Tells how things are.
#[must_use]
pub fn run(arguments: &StatusArguments) -> Exit {
    let paths = arguments.state.paths();
    let found = paths.iter().find(|path| path.exists());
    let now = SystemTime::now();
    let state = match found.map(|path| State::load(path)) {
        Some(Ok(Some(state))) => Ok(state),
        Some(Err(error)) => Err(unreadable(&error)),
        Some(Ok(None)) | None => {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            Err(format!("no agent has run: there is no state file {}", paths.join(" or ")))
        }
    };
    // Where the agent would write: there is a first one always.
    let place = found.or_else(|| paths.first());
    let unwritable = place.and_then(|path| state::unwritable(path));
    // A directory that is not there is one where no agent has run.
    let unwritable = unwritable.filter(|error| error.kind() != ErrorKind::NotFound);
    let mut status = match &state {
        Err(reason) => nobody(reason.clone()),
        Ok(State { agent: None, .. }) => {
            nobody("this state file is one of `once`, which does not stay".to_owned())
        }
        Ok(State { agent: Some(agent), sandbox_id, .. }) => {
            let late = late(agent, now, Uptime::now());
            let (verdict, summary) = judge(agent, is_alive(agent.pid), late, unwritable.as_ref());
            Status {
                verdict,
                summary,
                sandbox_id: Some(sandbox_id),
                state_file_error: None,
                agent: Some(agent),
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

fn nobody(summary: String) -> Status<'static> {
    Status {
        verdict: Verdict::CannotReport,
        summary,
        sandbox_id: None,
        state_file_error: None,
        agent: None,
    }
}

fn unreadable(error: &LoadError) -> String {
    match error {
        LoadError::Read(error) => {
            format!("the state file cannot be read: {error}; ask as the agent's user, or as root")
        }
        LoadError::Parse(_) => error.to_string(),
    }
}

/// Whether there is such a process; one of another user counts.
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

/// How long ago the next attempt was due. A wall clock is set now and then, and goes on while the machine
/// sleeps: by that alone, an agent that is well would be taken to hang.
fn late(agent: &Agent, now: SystemTime, uptime: Uptime) -> Duration {
    let by_uptime = agent.next_attempt_uptime.map(|at| at.before(uptime));
    // A state file from before there was the other.
    let late = by_uptime.or_else(|| agent.next_attempt.map(|at| at.before(now)));
    late.unwrap_or_default()
}

/// What to think of it.
fn judge(
    agent: &Agent,
    alive: bool,
    late: Duration,
    unwritable: Option<&io::Error>,
) -> (Verdict, String) {
    use Verdict::{CannotReport, Healthy, ProcessUnhealthy};

    let process = &agent.process;
    if !alive {
        return (
            CannotReport,
            format!("the agent is not running: its process {} is gone", agent.pid),
        );
    }
    let patience = Duration::from_secs(agent.attempt_timeout_seconds) + SLACK;
    if late > patience {
        let late = humantime::format_duration(Duration::from_secs(late.as_secs()));
        let summary = match unwritable {
            None => format!("the agent hangs: its next check-in was due {late} ago"),
            Some(error) => format!(
                "how the agent is cannot be told: it cannot write its state file, which ends with a \
                 check-in that was due {late} ago: {error}"
            ),
        };
        return (CannotReport, summary);
    }
    match process.state.as_str() {
        "running" | "starting" => {}
        "unknown" => {
            let summary = "the agent cannot tell how the process is; `doctor` says why";
            return (CannotReport, summary.to_owned());
        }
        state => return (ProcessUnhealthy, format!("the process is not well: {state}")),
    }
    match (agent.failures_in_a_row, &agent.last_error) {
        (0, _) if agent.last_accepted.is_some() => (Healthy, "healthy".to_owned()),
        (0, _) => (Healthy, "healthy; the first check-in is yet to come".to_owned()),
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

/// For people.
fn in_words(status: &Status, now: SystemTime) -> String {
    let mut text = status.summary.clone();
    if let Some(error) = &status.state_file_error {
        let _ =
            write!(text, "\n  {:<17} cannot be written, and may be old: {error}", "state file:");
    }
    let (Some(agent), Some(sandbox_id)) = (status.agent, status.sandbox_id) else { return text };
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
    // As of when it was seen: since then it may have ended.
    let uptime = Duration::try_from_secs_f64(process.uptime_seconds.trunc()).unwrap_or_default();
    let lines = [
        ("sandbox", sandbox_id.to_owned()),
        (
            "agent",
            format!("process {}, {}, since {}", agent.pid, agent.version, ago(agent.started)),
        ),
        (
            "process",
            format!(
                "{}, up for {}, restarts {}, last exit {exit}; seen {}",
                process.state,
                humantime::format_duration(uptime),
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
    ];
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {:<17} {value}", format!("{name}:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Process, Time};

    const HOUR: Duration = Duration::from_hours(1);

    /// An agent whose next check-in was due at `now`.
    fn due(now: SystemTime, uptime: Option<Uptime>) -> Agent {
        let status = crate::collect::process::Status {
            state: "running".to_owned(),
            ..crate::collect::process::Status::default()
        };
        Agent {
            next_attempt: Some(Time::new(now)),
            next_attempt_uptime: uptime,
            process: Process::new(Some(&status), Time::new(now)),
            ..Agent::starting(None, now)
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_makes_no_agent_hang_and_hides_none_that_does() {
        let (now, uptime) = (SystemTime::now(), Uptime::now());
        let agent = due(now, Some(uptime));
        for wall in [now - 6 * HOUR, now, now + 6 * HOUR] {
            let verdict = |uptime| judge(&agent, true, late(&agent, wall, uptime), None);
            assert_eq!(verdict(uptime).0, Verdict::Healthy);
            let (verdict, summary) = verdict(uptime.plus(HOUR));
            assert_eq!(verdict, Verdict::CannotReport);
            assert_eq!(summary, "the agent hangs: its next check-in was due 1h ago");
        }
    }

    #[test]
    fn an_agent_from_before_the_uptime_is_judged_by_the_wall_clock() {
        let now = SystemTime::now();
        let agent = due(now, None);
        assert_eq!(late(&agent, now + HOUR, Uptime::now()), HOUR);
    }

    #[test]
    fn an_agent_that_cannot_write_is_not_said_to_hang() {
        let agent = due(SystemTime::now(), Some(Uptime::now()));
        let full = ErrorKind::StorageFull.into();
        let (verdict, summary) = judge(&agent, true, HOUR, Some(&full));
        assert_eq!(verdict, Verdict::CannotReport);
        assert!(summary.contains("cannot write its state file"), "{summary}");
        assert_eq!(judge(&agent, true, Duration::ZERO, Some(&full)).0, Verdict::Healthy);
    }
}
