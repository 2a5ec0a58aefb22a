//! The process's health as systemd reports it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::collect::command::{self, CommandError};
use crate::collect::process::{ProcessStatus, code_reason, signal_reason};
use crate::process::children::Children;

pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest name of a unit, in bytes: systemd's own limit.
const MAX_NAME_BYTES: usize = 255;

/// The requested properties. `NRestarts` needs systemd 235, of 2017.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,NRestarts,MainPID,\
                          ExecMainCode,ExecMainStatus,ExecMainStartTimestampMonotonic,\
                          ActiveEnterTimestampMonotonic";

// Values of `ExecMainCode` once the main process has ended; see sigaction(2), `si_code`.
const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;
const CLD_DUMPED: i32 = 3;

/// A unit, and its last report.
///
/// While a service runs, systemd does not report its previous exit. So this keeps the last seen exit reason until
/// another exit may have followed.
#[derive(Clone, Debug)]
pub struct Unit {
    name: String,
    /// The program that reports units: `systemctl`, except in tests.
    systemctl: OsString,
    /// Whether it is a unit of the agent's user.
    of_user: bool,
    last: Option<LastReport>,
}

/// What is kept of the last report.
#[derive(Clone, Debug)]
struct LastReport {
    started_at: Duration,
    restarts: u64,
    /// Whether the process had ended.
    ended: bool,
    last_exit_reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a unit's name has 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 : - _ . \\ @, does not \
     start with - and is not only digits"
)]
pub struct InvalidName;

/// Why the state is unknown, worded to follow `systemd`.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// `systemctl show` failed.
    #[error("does not answer: `systemctl show` {0}")]
    Run(#[from] CommandError),
    /// There is no such unit.
    #[error(
        "knows no unit {0}; that of a user (`systemctl --user`) is known only to an agent that this \
         user runs"
    )]
    NoUnit(String),
    /// This property is missing or unexpected: the unit is not a service, or systemd has another version.
    #[error("reports no valid {0}: is it a service?")]
    Invalid(&'static str),
}

/// The state of a service as systemd reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    /// The contract's word.
    pub state: &'static str,
    /// Number of automatic restarts.
    pub restarts: u64,
    /// The main process, if there is one.
    pub pid: Option<u32>,
    /// Start of the current or last main process, on the monotonic clock; 0 if there was none. If systemd knows no main
    /// process of a running service, the time when it became active.
    pub started_at: Duration,
    /// How that process ended; `None` while it runs.
    pub exit_reason: Option<String>,
}

impl Unit {
    /// Validates a unit name; without a suffix it means a service.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let valid = (1..=MAX_NAME_BYTES).contains(&name.len())
            // A pattern would match several units.
            && name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c))
            && !name.starts_with('-')
            // `systemctl` takes digits alone for the id of a job.
            && !name.chars().all(|c| c.is_ascii_digit());
        if !valid {
            return Err(InvalidName);
        }
        Ok(Self {
            name: name.to_owned(),
            systemctl: "systemctl".into(),
            of_user: false,
            last: None,
        })
    }

    #[must_use]
    pub fn with_systemctl(self, systemctl: impl Into<OsString>) -> Self {
        Self { systemctl: systemctl.into(), ..self }
    }

    /// Reads the unit's state, within `timeout` and 5 seconds.
    ///
    /// If the system has no such unit, it may be one of the agent's user.
    pub fn ask(
        &mut self,
        children: &Children,
        timeout: Duration,
    ) -> Result<ProcessStatus, SystemdError> {
        let started = Instant::now();
        let timeout = timeout.min(TIMEOUT);
        let mut service = self.show(self.of_user, children, timeout)?;
        if service.is_none() {
            // An error means that no systemd runs for this user.
            let left = timeout.saturating_sub(started.elapsed());
            service = self.show(!self.of_user, children, left).ok().flatten();
            self.of_user ^= service.is_some();
        }
        let service = service.ok_or_else(|| SystemdError::NoUnit(self.name.clone()))?;
        Ok(self.status(&service, since_start()))
    }

    fn show(
        &self,
        of_user: bool,
        children: &Children,
        timeout: Duration,
    ) -> Result<Option<ServiceState>, SystemdError> {
        let mut systemctl = Command::new(&self.systemctl);
        systemctl.args(of_user.then_some("--user"));
        systemctl.args(["show", "--no-pager", PROPERTIES, "--"]).arg(OsStr::new(&self.name));
        let shown = command::output(children, &systemctl, timeout)?;
        parse(&String::from_utf8_lossy(&shown))
    }

    /// Turns systemd's report into a status, and remembers it.
    fn status(&mut self, service: &ServiceState, now: Duration) -> ProcessStatus {
        let last_exit_reason = match (&service.exit_reason, &self.last) {
            (Some(reason), _) => Some(reason.clone()),
            // The first report: earlier ends are unknown, unless nothing can have ended yet.
            (None, None) => (service.restarts == 0).then(String::new),
            (None, Some(last)) => {
                let same = service.started_at == last.started_at;
                let next = last.ended && service.restarts <= last.restarts.saturating_add(1);
                last.last_exit_reason.clone().filter(|_| same || next)
            }
        };
        self.last = Some(LastReport {
            started_at: service.started_at,
            restarts: service.restarts,
            ended: service.exit_reason.is_some(),
            last_exit_reason: last_exit_reason.clone(),
        });
        let up =
            service.pid.is_some() || service.state == "running" && service.exit_reason.is_none();
        let up_for = up.then(|| now.saturating_sub(service.started_at));
        ProcessStatus {
            state: service.state.to_owned(),
            pid: service.pid,
            restarts: service.restarts,
            uptime_seconds: up_for.unwrap_or_default().as_secs_f64(),
            last_exit_reason,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Parses the output of `systemctl show`: one `<property>=<value>` per line. `None` if the unit does not exist.
pub fn parse(shown: &str) -> Result<Option<ServiceState>, SystemdError> {
    let text = |name: &'static str| {
        shown
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .ok_or(SystemdError::Invalid(name))
    };
    let number = |name| text(name)?.parse::<u64>().map_err(|_| SystemdError::Invalid(name));
    let small = |name| text(name)?.parse::<i32>().map_err(|_| SystemdError::Invalid(name));

    let active = text("ActiveState")?;
    // A running service whose unit file was removed is also `not-found`.
    if text("LoadState")? == "not-found" && active == "inactive" {
        return Ok(None);
    }
    let state = state(active, text("SubState")?).ok_or(SystemdError::Invalid("ActiveState"))?;
    let pid = u32::try_from(number("MainPID")?).map_err(|_| SystemdError::Invalid("MainPID"))?;
    let status = small("ExecMainStatus")?;
    Ok(Some(ServiceState {
        state,
        restarts: number("NRestarts")?,
        pid: (pid != 0).then_some(pid),
        started_at: Duration::from_micros(match number("ExecMainStartTimestampMonotonic")? {
            0 if state == "running" => number("ActiveEnterTimestampMonotonic")?,
            started_at => started_at,
        }),
        exit_reason: match small("ExecMainCode")? {
            CLD_EXITED => Some(code_reason(status)),
            CLD_KILLED | CLD_DUMPED => Some(signal_reason(status)),
            _ => None,
        },
    }))
}

/// Maps systemd's states to the contract's.
fn state(active: &str, sub: &str) -> Option<&'static str> {
    Some(match (active, sub) {
        // Waiting for a restart; newer versions also report `auto-restart-queued`.
        ("activating", sub) if sub.starts_with("auto-restart") => "crashed",
        // `exited`: the process has ended, and the unit has `RemainAfterExit=`.
        ("inactive" | "maintenance", _) | ("active", "exited") => "stopped",
        ("active" | "reloading" | "refreshing", _) => "running",
        ("activating", _) => "starting",
        ("deactivating", _) => "stopping",
        ("failed", _) => "crashed",
        _ => return None,
    })
}

/// The clock of systemd's `Monotonic` timestamps.
fn since_start() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Output of systemd 252.
    const RUNNING: &str = "\
MainPID=812
NRestarts=2
ExecMainStartTimestampMonotonic=5250000
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=active
SubState=running
ActiveEnterTimestampMonotonic=5000000
";

    fn running() -> ServiceState {
        parse(RUNNING).unwrap().unwrap()
    }

    /// The process has ended, and systemd has not restarted it yet.
    fn ended(service: &ServiceState, reason: &str) -> ServiceState {
        ServiceState { pid: None, exit_reason: Some(reason.to_owned()), ..service.clone() }
    }

    /// systemd has restarted the process.
    fn restarted(service: &ServiceState) -> ServiceState {
        ServiceState {
            pid: service.pid.map_or(Some(900), |pid| Some(pid + 1)),
            restarts: service.restarts + 1,
            started_at: service.started_at + Duration::from_secs(1),
            exit_reason: None,
            ..service.clone()
        }
    }

    fn last_exits<const N: usize>(looks: [&ServiceState; N]) -> [Option<String>; N] {
        let mut unit = Unit::new("openclaw").unwrap();
        looks.map(|look| unit.status(look, Duration::from_mins(1)).last_exit_reason)
    }

    fn with(property: &str, value: &str) -> String {
        let lines = RUNNING.lines().map(|line| {
            if line.starts_with(&format!("{property}=")) {
                format!("{property}={value}\n")
            } else {
                format!("{line}\n")
            }
        });
        lines.collect()
    }

    #[test]
    fn a_unit_name_is_neither_a_pattern_nor_an_option() {
        for name in ["openclaw", "openclaw.service", "a@b:c_d-e\\x2d.service", "7up"] {
            assert_eq!(Unit::new(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            "-H",
            "--host=x",
            "a b",
            "a*",
            "a?",
            "[ab]",
            "a/b",
            "42",
            "a\n",
            "ü",
            &"a".repeat(256),
        ] {
            assert_eq!(Unit::new(name).unwrap_err(), InvalidName, "{name:?}");
        }
    }

    #[test]
    fn reads_a_running_service() {
        let expected = ServiceState {
            state: "running",
            restarts: 2,
            pid: Some(812),
            started_at: Duration::from_millis(5_250),
            exit_reason: None,
        };
        assert_eq!(running(), expected);
        let status = Unit::new("openclaw").unwrap().status(&expected, Duration::from_millis(6_500));
        assert_eq!(status.state, "running");
        assert_eq!(status.pid, Some(812));
        assert_eq!(status.restarts, 2);
        assert_eq!(Duration::from_secs_f64(status.uptime_seconds), Duration::from_millis(1_250));
    }

    #[test]
    fn a_process_that_has_ended_has_no_uptime() {
        let status =
            Unit::new("a").unwrap().status(&ended(&running(), "code:1"), Duration::from_mins(1));
        assert!(status.uptime_seconds.abs() < f64::EPSILON);
        assert_eq!(status.pid, None);
    }

    #[test]
    fn states_map_to_the_words_of_the_contract() {
        for (active, sub, expected) in [
            ("active", "running", "running"),
            ("active", "exited", "stopped"),
            ("reloading", "reload", "running"),
            ("refreshing", "refresh-extensions", "running"),
            ("activating", "start", "starting"),
            ("activating", "start-pre", "starting"),
            ("activating", "auto-restart", "crashed"),
            ("activating", "auto-restart-queued", "crashed"),
            ("deactivating", "stop-sigterm", "stopping"),
            ("inactive", "dead", "stopped"),
            ("maintenance", "dead", "stopped"),
            ("failed", "failed", "crashed"),
        ] {
            assert_eq!(state(active, sub), Some(expected), "{active}/{sub}");
        }
        assert_eq!(state("", ""), None);
        assert!(matches!(
            parse(&with("ActiveState", "confused")),
            Err(SystemdError::Invalid("ActiveState"))
        ));
    }

    #[test]
    fn an_exit_reason_is_a_code_or_a_signal() {
        for (code, status, expected) in [
            ("0", "0", None),
            ("1", "0", Some("code:0")),
            ("1", "203", Some("code:203")),
            ("2", "9", Some("signal:SIGKILL")),
            ("3", "6", Some("signal:SIGABRT")),
            ("2", "35", Some("signal:SIGRTMIN+1")),
        ] {
            let shown = with("ExecMainCode", code)
                .replace("ExecMainStatus=0", &format!("ExecMainStatus={status}"));
            assert_eq!(parse(&shown).unwrap().unwrap().exit_reason.as_deref(), expected);
        }
    }

    #[test]
    fn a_unit_that_does_not_exist_is_none() {
        assert_eq!(parse("LoadState=not-found\nActiveState=inactive\n").unwrap(), None);
    }

    #[test]
    fn a_unit_without_its_file_still_reports_its_state() {
        let shown = with("LoadState", "not-found");
        assert_eq!(parse(&shown).unwrap().unwrap(), running());
        let failed = shown.replace("ActiveState=active", "ActiveState=failed");
        assert_eq!(parse(&failed).unwrap().unwrap().state, "crashed");
    }

    #[test]
    fn a_service_without_a_known_main_process_is_up_since_it_became_active() {
        let shown = with("MainPID", "0")
            .replace("StartTimestampMonotonic=5250000", "StartTimestampMonotonic=0");
        let service = parse(&shown).unwrap().unwrap();
        assert_eq!((service.state, service.pid), ("running", None));
        let status = Unit::new("a").unwrap().status(&service, Duration::from_secs(65));
        assert!((status.uptime_seconds - 60.0).abs() < f64::EPSILON);
        // An exited service has no uptime.
        let done = shown.replace("SubState=running", "SubState=exited");
        let status = Unit::new("a")
            .unwrap()
            .status(&parse(&done).unwrap().unwrap(), Duration::from_secs(65));
        assert!(status.uptime_seconds.abs() < f64::EPSILON);
    }

    #[test]
    fn a_missing_or_invalid_property_is_named() {
        // `ActiveEnterTimestampMonotonic` matters only without a main process.
        let properties = RUNNING.lines().filter_map(|line| line.split('=').next());
        for property in properties.filter(|name| *name != "ActiveEnterTimestampMonotonic") {
            let without: Vec<_> =
                RUNNING.lines().filter(|line| !line.starts_with(&format!("{property}="))).collect();
            let error = parse(&without.join("\n")).unwrap_err();
            assert!(error.to_string().contains(property), "{property}: {error}");
        }
        for property in ["MainPID", "NRestarts", "ExecMainCode", "ExecMainStatus"] {
            for value in ["", "-", "1.5", "99999999999999999999"] {
                let error = parse(&with(property, value)).unwrap_err();
                assert!(error.to_string().contains(property), "{property}={value}: {error}");
            }
        }
    }

    #[test]
    fn the_exit_reason_is_empty_before_any_restart_and_unknown_on_a_first_reading() {
        assert_eq!(last_exits([&ServiceState { restarts: 0, ..running() }]), [Some(String::new())]);
        assert_eq!(last_exits([&running()]), [None]);
    }

    #[test]
    fn a_seen_exit_reason_is_kept_while_the_next_process_runs() {
        let (first, reason) = (running(), Some("code:1".to_owned()));
        let crashed = ended(&first, "code:1");
        let second = restarted(&crashed);
        assert_eq!(
            last_exits([&first, &crashed, &second, &second]),
            [None, reason.clone(), reason.clone(), reason.clone()]
        );
        // A manual start resets the restart count.
        let by_hand = ServiceState { restarts: 0, ..second };
        assert_eq!(last_exits([&crashed, &by_hand]), [reason.clone(), reason]);
    }

    #[test]
    fn an_unseen_exit_reason_is_unknown() {
        let crashed = ended(&running(), "code:1");
        let second = restarted(&crashed);
        let third = restarted(&second);
        // The exit was between two readings of running processes.
        assert_eq!(last_exits([&crashed, &second, &third])[2], None);
        // A whole run was between two readings.
        assert_eq!(last_exits([&crashed, &third])[1], None);
        // A manual start, not a restart by systemd.
        let by_hand = ServiceState { restarts: 0, ..third.clone() };
        assert_eq!(last_exits([&crashed, &third, &by_hand])[2], None);
    }

    proptest! {
        #[test]
        fn never_panics(shown: String) {
            let _ = parse(&shown);
        }

        #[test]
        fn never_panics_on_odd_values(
            property in "(MainPID|NRestarts|ExecMain(Code|Status|StartTimestampMonotonic))",
            value in "-?[0-9]{0,21}",
            now: u64,
        ) {
            if let Ok(Some(service)) = parse(&with(&property, &value)) {
                let status =
                    Unit::new("a").unwrap().status(&service, Duration::from_micros(now));
                prop_assert!(status.uptime_seconds.is_finite() && status.uptime_seconds >= 0.0);
            }
        }
    }
}
