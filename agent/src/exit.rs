//! The program's exit codes.

use std::process::ExitCode;

/// How a command ended. The numbers are those of BSD's `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Accepted; or there was nothing to send, and it was printed.
    Done = 0,
    /// A flag or a variable is missing or invalid (`EX_USAGE`).
    BadConfiguration = 64,
    /// No answer, or one that says to try again later: 5xx or 429 (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// What was asked for could not be written to standard output (`EX_IOERR`).
    OutputFailed = 74,
    /// Answered, and neither accepted nor worth trying again as it is (`EX_NOPERM`).
    Refused = 77,
}

/// The codes, for `--help`.
pub const HELP: &str = "\
Exit codes:
   0  accepted (2xx), or printed where nothing is sent
  64  bad configuration: a flag or a variable is missing or invalid
  69  unavailable: no answer (connection, DNS, TLS, timeout), 429 or 5xx; try again later
  74  standard output could not be written
  77  refused: any other answer, redirects included; trying again will not help";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        let codes: Vec<u8> = HELP
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        let all = [
            Exit::Done,
            Exit::BadConfiguration,
            Exit::Unavailable,
            Exit::OutputFailed,
            Exit::Refused,
        ];
        assert_eq!(codes, all.map(|exit| exit as u8));
    }
}
