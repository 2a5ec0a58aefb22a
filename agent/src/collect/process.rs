//! The health of the reported process, from any source.

use std::borrow::Cow;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use signal_hook::low_level::signal_name;

/// The first real-time signal for programs: the C library reserves two below it.
const FIRST_REAL_TIME_SIGNAL: i32 = 34;

/// The highest signal.
const LAST_SIGNAL: i32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub enum ProcessHealth {
    /// The agent has no source for it.
    NotWatched,
    /// Reading the source failed.
    Unknown,
    /// The source reported this.
    Known(ProcessStatus),
}

/// The state of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessStatus {
    /// `running`, `crashed` and so on; not empty.
    pub state: String,
    /// `None` if the source does not report it.
    pub pid: Option<u32>,
    /// Restarts since its supervisor started.
    pub restarts: u64,
    /// Uptime in seconds: finite, at least 0.
    pub uptime_seconds: f64,
    /// `signal:<NAME>`, `code:<N>`, or empty before the first exit; `None` if unknown.
    pub last_exit_reason: Option<String>,
}

impl ProcessStatus {
    /// Whether the same process as `earlier` may have run all the time since.
    #[must_use]
    pub fn continues(&self, earlier: &Self) -> bool {
        self.restarts == earlier.restarts
            && self.pid == earlier.pid
            && self.uptime_seconds >= earlier.uptime_seconds
    }
}

/// An exit status in the contract's form.
#[must_use]
pub fn exit_reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code_reason(code),
        (None, Some(signal)) => signal_reason(signal),
        // Stopped or continued; no caller waits for that.
        (None, None) => String::new(),
    }
}

pub(crate) fn code_reason(code: impl std::fmt::Display) -> String {
    format!("code:{code}")
}

pub(crate) fn signal_reason(signal: i32) -> String {
    let name = match (signal_name(signal), signal.saturating_sub(FIRST_REAL_TIME_SIGNAL)) {
        (Some(name), _) => Cow::Borrowed(name),
        (None, 0) => Cow::Borrowed("SIGRTMIN"),
        (None, above @ 1..) if signal <= LAST_SIGNAL => Cow::Owned(format!("SIGRTMIN+{above}")),
        (None, _) => Cow::Owned(signal.to_string()),
    };
    format!("signal:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_reason_is_a_code_or_the_name_of_a_signal() {
        // The encoding of wait(2).
        for (status, reason) in [
            (0, "code:0"),
            (1 << 8, "code:1"),
            (255 << 8, "code:255"),
            (9, "signal:SIGKILL"),
            (15, "signal:SIGTERM"),
            (128 + 11, "signal:SIGSEGV"), // with a core
            (32, "signal:32"),
            (34, "signal:SIGRTMIN"),
            (35, "signal:SIGRTMIN+1"),
            (64, "signal:SIGRTMIN+30"),
        ] {
            assert_eq!(exit_reason(ExitStatus::from_raw(status)), reason);
        }
        for (signal, reason) in
            [(0, "signal:0"), (65, "signal:65"), (i32::MIN, "signal:-2147483648")]
        {
            assert_eq!(signal_reason(signal), reason);
        }
    }

    #[test]
    fn another_pid_a_restart_or_a_shorter_uptime_is_another_process() {
        let earlier = ProcessStatus {
            pid: Some(7),
            restarts: 2,
            uptime_seconds: 10.0,
            ..ProcessStatus::default()
        };
        let later = ProcessStatus { uptime_seconds: 310.0, ..earlier.clone() };
        assert!(later.continues(&earlier) && earlier.continues(&earlier));
        assert!(!earlier.continues(&later));
        assert!(!ProcessStatus { pid: Some(8), ..later.clone() }.continues(&earlier));
        assert!(!ProcessStatus { pid: None, ..later.clone() }.continues(&earlier));
        assert!(!ProcessStatus { restarts: 3, ..later.clone() }.continues(&earlier));
        // The supervisor restarted.
        assert!(!ProcessStatus { restarts: 0, ..later }.continues(&earlier));
    }
}
