//! Runs a program for its output, with a timeout.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::iter;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::process::children::{Child, Children};
use crate::{env_vars, process::launch};

/// Maximum size of kept output, in bytes: a version is one line, a unit a dozen.
const MAX_OUTPUT_BYTES: usize = 4 * 1024;

/// Number of reads from one output before the other one's turn: twice a pipe's capacity.
const MAX_READS: usize = 128 * 1024 / MAX_OUTPUT_BYTES;

/// How long to wait for the end of a killed program. One that waits for a disk or a network file system takes longer,
/// and stays behind.
const GRACE: Duration = Duration::from_millis(500);

/// Why there is no output, worded to follow the command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("could not be run: {0}")]
    Run(#[from] io::Error),
    #[error("took over {} s and was killed", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It failed, with this line of its output.
    #[error("failed: {0}{colon}{1}", colon = if .1.is_empty() { "" } else { ": " })]
    Failed(ExitStatus, String),
}

/// Runs a command and returns the beginning of its standard output, within `timeout`.
///
/// The command has its own process group, which is killed when the command ends, so background processes in the group
/// neither delay the result nor remain. Processes outside of the group may remain, but no thread or descriptor waits
/// for them. If the agent is killed, so is the command.
pub fn output(
    children: &Children,
    command: &Command,
    timeout: Duration,
) -> Result<Vec<u8>, CommandError> {
    let deadline = Instant::now() + timeout;
    let words = iter::once(command.get_program()).chain(command.get_args());
    let mut child = launch::start(words, children, timeout, |command| {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // It gets no other variables, least of all secrets.
            .env_clear()
            .envs(env_vars::FOR_PROBES.iter().filter_map(|&name| Some((name, env::var_os(name)?))))
            .env(env_vars::NO_RESPAWN, "1");
    })?;
    let read = read(&mut child, deadline);
    // Before the command is reaped, since the group's id can be reused after that.
    child.signal_group(Signal::KILL);
    let status = child.wait_until(Instant::now() + GRACE)?;
    let Some([output, errors]) = read? else { return Err(CommandError::TimedOut(timeout)) };
    match status {
        Some(status) if status.success() => Ok(output.text),
        Some(status) => {
            // Some programs print errors to standard output.
            let lines = [errors.most_useful_line(), output.most_useful_line()];
            let message = lines.into_iter().find(|line| !line.is_empty()).unwrap_or_default();
            Err(CommandError::Failed(status, message))
        }
        None => Err(CommandError::TimedOut(timeout)),
    }
}

/// Reads both outputs until the child ends; `None` if it has not ended by `deadline`.
fn read(child: &mut Child, deadline: Instant) -> io::Result<Option<[Output; 2]>> {
    let mut outputs = [
        // The pipe is closed at the limit, so a program that prints without end fails.
        Output::new(child.stdout.take().map(OwnedFd::from), Excess::Refused)?,
        // Long warnings must not make a program fail. The last lines have the error; Node first quotes a source line,
        // which can be the whole program.
        Output::new(child.stderr.take().map(OwnedFd::from), Excess::LastKept)?,
    ];
    loop {
        // Check for the end first, then read: so all output before the end is read.
        let ended = child.has_ended();
        for output in &mut outputs {
            output.read()?;
        }
        if ended {
            return Ok(Some(outputs));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        let pipes = outputs.iter().filter_map(|output| output.pipe.as_ref());
        child.poll(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)), deadline)?;
    }
}

/// What to do with output beyond the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Excess {
    Refused,
    LastKept,
}

/// One of a program's outputs.
struct Output {
    /// `None` after either end has closed it.
    pipe: Option<File>,
    text: Vec<u8>,
    excess: Excess,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, excess: Excess) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe: pipe.map(File::from), text: Vec::new(), excess })
    }

    /// Reads the available output.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; MAX_OUTPUT_BYTES];
        for _ in 0..MAX_READS {
            let Some(pipe) = &mut self.pipe else { break };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.text.extend(buffer.iter().take(count));
                    let excess = self.text.len().saturating_sub(MAX_OUTPUT_BYTES);
                    match self.excess {
                        Excess::LastKept => drop(self.text.drain(..excess)),
                        Excess::Refused => {
                            self.text.truncate(MAX_OUTPUT_BYTES);
                            if excess > 0 {
                                self.pipe = None;
                            }
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn most_useful_line(&self) -> String {
        most_useful_line(&String::from_utf8_lossy(&self.text))
    }
}

/// The first line with a word such as `Error:`, which Node and Python print within a stack trace; else the first line
/// that is not blank.
#[must_use]
pub fn most_useful_line(text: &str) -> String {
    let is_error = |word: &str| word.trim_end_matches(':').to_ascii_lowercase().ends_with("error");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next();
    let error = lines.find(|line| line.split_whitespace().any(is_error));
    error.or(first).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a shell to start on a busy machine.
    const AMPLE: Duration = Duration::from_mins(1);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(command: &mut Command, timeout: Duration) -> Result<Vec<u8>, CommandError> {
        output(&Children::default(), command, timeout)
    }

    #[test]
    fn returns_the_output_of_a_command() {
        assert_eq!(run(&mut sh("echo 2026.3.13"), AMPLE).unwrap(), b"2026.3.13\n");
        // Written in pieces, after the first read.
        let pieces = "printf 2026; sleep 0.1; printf .3.13; exec >&-; sleep 0.1";
        assert_eq!(run(&mut sh(pieces), AMPLE).unwrap(), b"2026.3.13");
    }

    #[test]
    fn a_command_inherits_only_the_listed_environment_variables() {
        let output = String::from_utf8(run(&mut sh("env"), AMPLE).unwrap()).unwrap();
        let names: Vec<_> = output.lines().filter_map(|line| line.split_once('=')).collect();
        assert!(names.iter().any(|&(name, _)| name == "PATH"), "{output}");
        // None of the other variables that cargo and the user have set.
        let of_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
        for (name, _) in names {
            let needed = env_vars::FOR_PROBES.contains(&name) || name == env_vars::NO_RESPAWN;
            assert!(needed || of_the_shell.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_missing_command_is_an_error() {
        let error = run(&mut Command::new("/does/not/exist"), AMPLE).unwrap_err();
        assert!(error.to_string().starts_with("could not be run: No such file"), "{error}");
    }

    #[test]
    fn the_output_of_a_failed_command_is_quoted_in_the_error() {
        let error = run(&mut sh("exit 3"), AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "failed: exit status: 3");
        let error = run(&mut sh("echo 2026.3.13; exit 3"), AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "failed: exit status: 3: 2026.3.13");
        let error = run(&mut sh("printf '\n no disk\nat x\n' >&2; exit 3"), AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "failed: exit status: 3: no disk");
    }

    #[test]
    fn the_line_with_the_error_is_quoted() {
        let node = "node:internal/modules/cjs/loader:1228\n  throw err;\n  ^\n\n\
                    Error: Cannot find module '/opt/openclaw.mjs'\n    at Module._resolve\n\n\
                    Node.js v22.1.0\n";
        let python = "Traceback (most recent call last):\n  File \"a\", line 1\n\
                      ModuleNotFoundError: No module named 'x'\n";
        for (text, line) in [
            (node, "Error: Cannot find module '/opt/openclaw.mjs'"),
            (python, "ModuleNotFoundError: No module named 'x'"),
            ("Warning: old\nError [ERR_X]: broken\n", "Error [ERR_X]: broken"),
            ("\nsh: 1: openclaw: not found\n", "sh: 1: openclaw: not found"),
            (" \n", ""),
        ] {
            assert_eq!(most_useful_line(text), line);
        }
        // After a source line of 300 kB, as in a minified program.
        let script =
            "head -c 300000 /dev/zero | tr '\\0' x >&2; printf '\nTypeError: b\n' >&2; exit 1";
        let error = run(&mut sh(script), AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "failed: exit status: 1: TypeError: b");
        let error = run(&mut sh("echo 'error: no home'; exit 2"), AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "failed: exit status: 2: error: no home");
    }

    #[test]
    fn long_warnings_do_not_affect_the_output() {
        let script = "head -c 300000 /dev/zero >&2; echo 2026.3.13";
        assert_eq!(run(&mut sh(script), AMPLE).unwrap(), b"2026.3.13\n");
    }

    #[test]
    fn a_hung_command_is_killed_with_its_descendants() {
        // If `sleep` survived its shell, it would keep the FIFO open, and `cat` would not end.
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let fifo = fifo.to_str().unwrap();
        let mut cat = Command::new("timeout").args(["60", "cat", fifo]).spawn().unwrap();

        let script = format!("echo 2026.3.13; sleep 600 > '{fifo}' & wait");
        let error = run(&mut sh(&script), Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.to_string(), "took over 2 s and was killed");
        assert!(cat.wait().unwrap().success());
    }

    #[test]
    fn background_processes_do_not_delay_the_result() {
        for script in ["sleep 600 & echo 2026.3.13", "setsid sleep 20 & echo 2026.3.13"] {
            let started = Instant::now();
            assert_eq!(run(&mut sh(script), AMPLE).unwrap(), b"2026.3.13\n", "{script}");
            assert!(started.elapsed() < AMPLE / 4, "{script}");
        }
    }

    #[test]
    fn timeouts_leak_neither_threads_nor_descriptors() {
        // `setsid` moves `sleep` out of the process group, where it keeps both outputs open.
        let hangs = || run(&mut sh("setsid sleep 20 & wait"), Duration::from_millis(50));
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        assert!(matches!(hangs(), Err(CommandError::TimedOut(_))));
        let before = (count("task"), count("fd"));
        for _ in 0..20 {
            assert!(matches!(hangs(), Err(CommandError::TimedOut(_))));
        }
        let after = (count("task"), count("fd"));
        // Other tests run at the same time, each with a thread and a few descriptors.
        assert!(after.0 < before.0 + 15 && after.1 < before.1 + 30, "{before:?} {after:?}");
    }

    #[test]
    fn endless_output_is_cut_off() {
        assert!(matches!(run(&mut sh("exec yes"), AMPLE), Err(CommandError::Failed(..))));
        let error = run(&mut sh("exec yes >&2"), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut(_)));
    }
}
