//! Starts programs through a short-lived copy of the agent, which then executes the program.
//!
//! Only a process itself can arrange to end with its parent and reset its inherited signals. Programs usually do both
//! between fork and exec, where Rust needs `unsafe`. So the agent starts a copy of itself, which executes the program.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::dup2_stdin;

use crate::process::children::{Child, Children};
use crate::{daemon::signals, env_vars};

/// First argument of such a copy. No subcommand has this name.
const LAUNCH: &str = "=launch";

/// The running program, even if its file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a program may take to load before it counts as started.
const LOADED_AFTER: Duration = Duration::from_secs(5);

/// Whether a copy of this program can launch others. Unit tests of the library cannot.
static IS_THE_AGENT: AtomicBool = AtomicBool::new(false);

/// Starts a command that is killed when the calling thread ends. It leads its own process group and has no standard input.
pub fn launch(command: &[OsString], children: &Children) -> io::Result<Child> {
    start(command.iter().map(OsString::as_os_str), children, LOADED_AFTER, |launcher| {
        launcher.env(env_vars::OF_THE_COMMAND, process::id().to_string());
        if std::env::var_os(env_vars::NO_RESPAWN).is_none() {
            launcher.env(env_vars::NO_RESPAWN, "1");
        }
        for name in env_vars::NOT_FOR_THE_COMMAND {
            launcher.env_remove(name);
        }
    })
}

/// Starts a program likewise, with the environment and outputs of `set_up`. After `loaded_after` it counts as started.
pub fn start<'a>(
    words: impl IntoIterator<Item = &'a OsStr>,
    children: &Children,
    loaded_after: Duration,
    set_up: impl FnOnce(&mut Command),
) -> io::Result<Child> {
    let mut words = words.into_iter();
    if !IS_THE_AGENT.load(Ordering::Relaxed) {
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).process_group(0);
        set_up(&mut command);
        return children.spawn(&mut command);
    }
    let (mut ours, theirs) = UnixStream::pair()?;
    // A timeout of zero would be an error.
    ours.set_read_timeout(Some(loaded_after.clamp(Duration::from_millis(1), LOADED_AFTER)))?;
    let mut launcher = Command::new(THIS_PROGRAM);
    launcher
        .arg(LAUNCH)
        .arg(process::id().to_string())
        .args(words)
        .stdin(OwnedFd::from(theirs))
        .process_group(0);
    set_up(&mut launcher);
    let child = children.spawn(&mut launcher)?;
    // Closes the copy's end here, so that `ours` sees when the copy closes it.
    drop(launcher);
    let mut error = String::new();
    // A successful exec closes the pair without writing. A timeout counts as success.
    let _ = ours.read_to_string(&mut error);
    match error.parse() {
        Ok(code) => {
            child.wait_until(Instant::now() + LOADED_AFTER)?;
            Err(io::Error::from_raw_os_error(code))
        }
        Err(_) => Ok(child),
    }
}

/// Executes the program if this process is such a copy; then it returns only on error.
#[must_use]
pub fn requested() -> Option<ExitCode> {
    IS_THE_AGENT.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != LAUNCH {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
    let program = arguments.next()?;
    let mut command = Command::new(program);
    command.args(arguments);
    // Standard input is the pair's other end. This duplicate frees it for /dev/null, and closes on exec.
    let agent = io::stdin().as_fd().try_clone_to_owned().ok()?;
    let error = launch_from(parent, &mut command);
    let code = error.raw_os_error().unwrap_or_default();
    let _ = File::from(agent).write_all(code.to_string().as_bytes());
    Some(ExitCode::FAILURE)
}

fn launch_from(parent: Pid, command: &mut Command) -> io::Error {
    let prepared = || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The agent may have ended before the call above.
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        dup2_stdin(File::open("/dev/null")?)?;
        signals::reset_for_exec()
    };
    prepared().err().unwrap_or_else(|| command.exec())
}
