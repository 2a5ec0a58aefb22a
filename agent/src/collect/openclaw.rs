//! `OpenClaw`'s version, from its own `--version`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::variables;

/// How long the program may take. It is a Node program: on a small machine, starting alone takes a
/// second or two.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much of the output is read, in bytes: a version is one line.
const MAX_OUTPUT_BYTES: u64 = 4 * 1024;

/// The longest version that is believed, in bytes.
const MAX_VERSION_BYTES: usize = 64;

/// What `OpenClaw` says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `2026.3.13` or `2026.2.19-2`.
    pub version: String,
    /// The git commit that it was built from, where it says so.
    pub commit: Option<String>,
}

/// Why there is no version, worded to follow the command.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be run.
    #[error("could not be run: {0}")]
    Run(#[from] io::Error),
    /// It did not end in time, or left something behind that kept its output open.
    #[error("took over {} s and was killed", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It failed.
    #[error("failed: {0}")]
    Failed(ExitStatus),
    /// It printed something else.
    #[error("did not print a version")]
    NotAVersion,
}

/// Runs `program --version` and reads what it prints.
pub fn probe(program: &OsStr) -> Result<Version, ProbeError> {
    let mut command = Command::new(program);
    command.arg("--version");
    let output = output(command, TIMEOUT)?;
    parse(&String::from_utf8_lossy(&output)).ok_or(ProbeError::NotAVersion)
}

/// Takes the version out of the first line that is not blank:
///
/// - `OpenClaw 2026.3.13 (def5678)`, the name and the commit being optional
/// - `2026.2.19-2 build_sha=abc1234`
///
/// Anything else on that line, and it is not trusted to be a version at all.
#[must_use]
pub fn parse(output: &str) -> Option<Version> {
    let line = output.lines().map(str::trim).find(|line| !line.is_empty())?;
    let mut words = line.split_whitespace().peekable();
    words.next_if(|word| word.eq_ignore_ascii_case("openclaw"));
    let version = words.next().filter(|word| is_version(word))?.to_owned();
    let commit = match words.next() {
        None => None,
        Some(word) => {
            let commit = word.strip_prefix("build_sha=").or_else(|| parenthesized(word))?;
            if !is_commit(commit) {
                return None;
            }
            Some(commit.to_owned())
        }
    };
    words.next().is_none().then_some(Version { version, commit })
}

fn parenthesized(word: &str) -> Option<&str> {
    word.strip_prefix('(')?.strip_suffix(')')
}

/// Numbers between dots, then what a pre-release or a build adds: `2026.2.19-2`.
fn is_version(word: &str) -> bool {
    let numbers = word.split(['-', '+']).next().unwrap_or_default();
    word.len() <= MAX_VERSION_BYTES
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
        && numbers.contains('.')
        && numbers
            .split('.')
            .all(|number| !number.is_empty() && number.chars().all(|digit| digit.is_ascii_digit()))
}

/// A git commit, abbreviated or not: 7 to 40 hex digits.
fn is_commit(word: &str) -> bool {
    (7..=40).contains(&word.len()) && word.chars().all(|digit| digit.is_ascii_hexdigit())
}

/// Runs a command and takes the start of its standard output, within `timeout`.
///
/// A thread waits, for the output's end and for the exit alike, and a channel has the deadline.
/// The command runs in a process group of its own, so that on time-out a wrapper script dies
/// together with what it started; that ends the thread, too.
fn output(mut command: Command, timeout: Duration) -> Result<Vec<u8>, ProbeError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        // A version is told without credentials.
        .env_remove(variables::API_KEY)
        .env_remove(variables::GATEWAY_TOKEN)
        .spawn()?;
    let group = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    let waiting = thread::Builder::new().name("version probe".to_owned()).spawn(move || {
        let mut output = Vec::new();
        // The pipe is closed before the wait: a program that prints on and on gets an error.
        let read = child
            .stdout
            .take()
            .map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut output));
        let ended = child.wait().and_then(|status| read.map(|_| (status, output)));
        // Nobody receives after the deadline.
        let _ = sender.send(ended);
    });
    let ended = match waiting {
        Ok(_) => receiver.recv_timeout(timeout).map_err(|_| ProbeError::TimedOut(timeout)),
        Err(error) => Err(error.into()),
    };
    if ended.is_err() {
        // It fails if all of the group have just ended by themselves, which is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let (status, output) = ended??;
    if status.success() { Ok(output) } else { Err(ProbeError::Failed(status)) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    /// Long enough for a shell to start on a busy machine.
    const AMPLE: Duration = Duration::from_mins(1);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn version(version: &str, commit: Option<&str>) -> Version {
        Version { version: version.to_owned(), commit: commit.map(str::to_owned) }
    }

    #[test]
    fn reads_every_form_that_openclaw_prints() {
        assert_eq!(
            parse("OpenClaw 2026.3.13 (def5678)\n").unwrap(),
            version("2026.3.13", Some("def5678"))
        );
        assert_eq!(
            parse("2026.2.19-2 build_sha=abc1234\n").unwrap(),
            version("2026.2.19-2", Some("abc1234"))
        );
        assert_eq!(parse("2026.3.13\n").unwrap(), version("2026.3.13", None));
        assert_eq!(parse("\n  OpenClaw 2026.3.13  \n\n").unwrap(), version("2026.3.13", None));
        assert_eq!(parse("2026.3.13-beta.1").unwrap(), version("2026.3.13-beta.1", None));
    }

    #[test]
    fn what_is_not_quite_a_version_is_none() {
        for output in [
            "",
            "\n \n",
            "OpenClaw",
            "OpenClaw OpenClaw 2026.3.13",
            "Node 22.1.0",
            "v2026.3.13",
            "2026",
            "2026.",
            "2026..3",
            "x.y.z",
            "-2026.3",
            "2026.3.13 (unknown)",
            "2026.3.13 (def5678",
            "2026.3.13 def5678",
            "2026.3.13 build_sha=",
            "2026.3.13 (def567)",
            "2026.3.13 (def5678) linux",
            "error: 2026.3.13 is not installed",
            "2026.3.13\u{1b}[0m",
        ] {
            assert_eq!(parse(output), None, "{output:?}");
        }
        assert_eq!(parse(&format!("1.{}", "0".repeat(MAX_VERSION_BYTES))), None);
        assert_eq!(parse(&format!("1.0 ({})", "a".repeat(41))), None);
    }

    #[test]
    fn takes_what_a_command_prints() {
        assert_eq!(output(sh("echo 2026.3.13"), AMPLE).unwrap(), b"2026.3.13\n");
    }

    #[test]
    fn a_command_sees_no_credentials() {
        let mut command = sh("echo \"[$KILOCODE_API_KEY$OPENCLAW_GATEWAY_TOKEN]\"");
        command.env(variables::API_KEY, "k").env(variables::GATEWAY_TOKEN, "t");
        assert_eq!(output(command, AMPLE).unwrap(), b"[]\n");
    }

    #[test]
    fn a_missing_command_is_an_error() {
        assert!(matches!(probe(OsStr::new("/does/not/exist")), Err(ProbeError::Run(_))));
    }

    #[test]
    fn a_command_that_fails_is_not_believed() {
        let error = output(sh("echo 2026.3.13; exit 3"), AMPLE).unwrap_err();
        assert!(matches!(error, ProbeError::Failed(_)));
        assert_eq!(error.to_string(), "failed: exit status: 3");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        // Would `sleep` survive its shell, it would keep the fifo open, and `cat` would not end.
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let fifo = fifo.to_str().unwrap();
        let mut cat = Command::new("timeout").args(["60", "cat", fifo]).spawn().unwrap();

        let script = format!("echo 2026.3.13; sleep 600 > '{fifo}' & wait");
        let error = output(sh(&script), Duration::from_secs(2)).unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut(_)));
        assert_eq!(error.to_string(), "took over 2 s and was killed");
        assert!(cat.wait().unwrap().success());
    }

    #[test]
    fn what_keeps_the_output_open_does_not_keep_us() {
        let started = Instant::now();
        let result = output(sh("sleep 600 & echo 2026.3.13"), Duration::from_secs(1));
        assert!(matches!(result, Err(ProbeError::TimedOut(_))));
        assert!(started.elapsed() < AMPLE);
    }

    #[test]
    fn a_command_that_prints_without_end_is_cut_off() {
        assert!(matches!(output(sh("exec yes"), AMPLE), Err(ProbeError::Failed(_))));
    }

    proptest! {
        #[test]
        fn never_panics(output: String) {
            let _ = parse(&output);
        }

        #[test]
        fn what_is_believed_is_short_and_printable(
            output in "(OpenClaw )?[v0-9.a-z+-]{0,80}( [(]?(build_sha=)?[0-9a-f]{0,50}[)]?)?"
        ) {
            if let Some(Version { version, commit }) = parse(&output) {
                prop_assert!(version.len() <= MAX_VERSION_BYTES && version.is_ascii());
                prop_assert!(commit.is_none_or(|commit| is_commit(&commit)));
            }
        }
    }
}
