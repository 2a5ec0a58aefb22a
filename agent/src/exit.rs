//! The program's exit codes.

use std::process::ExitCode;

/// Exit codes from 64 on are those of BSD's `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Accepted, or printed without sending, or healthy.
    Done = 0,
    /// `status`: the agent cannot report; `doctor`, `setup`: a check failed.
    Failed = 1,
    /// `status`: the process is unhealthy.
    ProcessUnhealthy = 2,
    /// A flag or a variable is missing or invalid (`EX_USAGE`).
    BadConfiguration = 64,
    /// No response, or 429 or 5xx: try again later (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// The operating system refuses something that the agent needs (`EX_OSERR`).
    SystemError = 71,
    /// Standard output could not be written (`EX_IOERR`).
    OutputFailed = 74,
    /// Any other response: not accepted, and a retry does not help (`EX_NOPERM`).
    Refused = 77,
}

/// The codes of all commands, for `--help`.
pub const ALL_HELP: &str = "\
Exit codes:
   0  accepted (204), or printed where nothing is sent; `run`, `watch`: stopped by a signal;
      `status`, `doctor`: healthy
   1  `status`: the agent cannot report; `doctor`, `setup`: a check failed
   2  `status`: the process is unhealthy
  64  bad configuration: a flag or a variable is missing or invalid
  69  unavailable: no response (connection, DNS, TLS, timeout), 429 or 5xx; try again later
  71  `run`, `watch`: another agent uses the state file, or the system prevents the start;
      `setup`: a file cannot be written, or systemd does not start the service
  74  standard output could not be written
  77  refused: any other response, redirects included; a retry will not help";

/// The codes of commands that send or print, for `--help`.
pub const HELP: &str = "\
Exit codes:
   0  accepted (204), or printed where nothing is sent
  64  bad configuration: a flag or a variable is missing or invalid
  69  unavailable: no response (connection, DNS, TLS, timeout), 429 or 5xx; try again later
  74  standard output could not be written
  77  refused: any other response, redirects included; a retry will not help";

pub const STATUS_HELP: &str = "\
Exit codes:
   0  healthy: the process is up, and the last check-in was accepted or the first one is not due
   1  cannot report: no agent is running, its check-ins fail, or it cannot read the process's state
   2  the process is unhealthy: it is crashed, stopped or stopping, or restarted less than 30 seconds
      ago for the third time; whether or not the agent can report that
  64  bad configuration: a flag or a variable is missing or invalid
  74  standard output could not be written";

pub const DOCTOR_HELP: &str = "\
The check-in is a dry run: the server validates it and stores nothing.

Exit codes:
   0  all checks passed, possibly with warnings
   1  a check failed
  64  bad configuration: a flag is invalid
  74  standard output could not be written";

pub const SETUP_HELP: &str = "\
Exit codes:
   0  the settings are written, and the service is running
   1  a check failed, or the questions were interrupted; nothing was changed
  64  bad configuration: a flag or a variable is missing or invalid
  71  a file cannot be written, or systemd does not start the service
  74  standard output could not be written";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(help: &str) -> Vec<u8> {
        let first_word = |line: &str| line.split_whitespace().next().map(str::to_owned);
        help.lines().filter_map(first_word).filter_map(|word| word.parse().ok()).collect()
    }

    #[test]
    fn help_names_every_code() {
        use Exit::{
            BadConfiguration, Done, Failed, OutputFailed, ProcessUnhealthy, Refused, SystemError,
            Unavailable,
        };

        let numbers = |exits: &[Exit]| exits.iter().map(|&exit| exit as u8).collect::<Vec<_>>();
        let all = [
            Done,
            Failed,
            ProcessUnhealthy,
            BadConfiguration,
            Unavailable,
            SystemError,
            OutputFailed,
            Refused,
        ];
        assert_eq!(codes(ALL_HELP), numbers(&all));
        let once = [Done, BadConfiguration, Unavailable, OutputFailed, Refused];
        assert_eq!(codes(HELP), numbers(&once));
        let status = [Done, Failed, ProcessUnhealthy, BadConfiguration, OutputFailed];
        assert_eq!(codes(STATUS_HELP), numbers(&status));
        let doctor = [Done, Failed, BadConfiguration, OutputFailed];
        assert_eq!(codes(DOCTOR_HELP), numbers(&doctor));
        let setup = [Done, Failed, BadConfiguration, SystemError, OutputFailed];
        assert_eq!(codes(SETUP_HELP), numbers(&setup));
    }
}
