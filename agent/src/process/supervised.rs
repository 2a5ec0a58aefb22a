//! The process of the supervised command: starts it, signals it, and polls it whenever a child has changed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::process;

use rustix::process::{Pid, Signal};
use signal_hook::low_level::signal_name;

use crate::collect::process::exit_reason;
use crate::daemon::supervisor::CommandExit;
use crate::env_vars;
use crate::process::children::{Child, Children, Orphan};
use crate::process::launch::launch;

/// The command and everything that it started. It leads its own process group. Processes that it leaves behind, in the
/// group or outside of it, get SIGTERM, and have ended before the command's next start, which may need their port or
/// file.
#[derive(Debug)]
pub struct SupervisedProcess {
    child: Child,
    children: Children,
    /// Set when the command itself has ended.
    exit: Option<CommandExit>,
    /// Whether its group got a stop signal.
    stopping: bool,
    /// Left-behind processes outside of the group that got SIGTERM.
    terminated: HashSet<Pid>,
    /// Whether left-behind processes get SIGKILL.
    killed: bool,
}

/// The condition of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// No change.
    Same,
    /// A signal stopped it.
    Suspended(&'static str),
    /// A signal continued it.
    Continued,
    /// It ended and left processes behind, which got SIGTERM. The list has those outside of its group that are new
    /// since the last poll.
    LeftBehind(Vec<Orphan>),
    /// It and everything that it started have ended.
    Ended(CommandExit),
}

impl SupervisedProcess {
    /// Starts the command, which ends with the calling thread. It writes to the agent's standard output and error.
    pub fn start(command: &[OsString], children: &Children) -> io::Result<Self> {
        Ok(Self {
            child: launch(command, children)?,
            children: children.clone(),
            exit: None,
            stopping: false,
            terminated: HashSet::new(),
            killed: false,
        })
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Signals the command's group or, after its end, the processes that it left behind.
    pub fn signal(&mut self, signal: Signal) {
        self.stopping = true;
        self.killed |= signal == Signal::KILL;
        match self.exit {
            None => self.child.signal_group(signal),
            Some(_) => drop(self.signal_remains(|_| Some(signal))),
        }
    }

    /// The condition, after a child of this process has changed its state.
    pub fn look(&mut self) -> Standing {
        if self.exit.is_none() {
            if !self.child.has_ended() {
                return match self.child.suspension() {
                    None => Standing::Same,
                    Some(None) => Standing::Continued,
                    Some(Some(signal)) => {
                        Standing::Suspended(signal_name(signal).unwrap_or("a signal"))
                    }
                };
            }
            // Only once: many programs take a second signal as a request to hurry. Before the command is reaped, since
            // its group's id can be reused after that.
            if !self.stopping {
                self.signal(Signal::TERM);
            }
            self.exit = Some(match self.child.try_wait() {
                Ok(Some(status)) => {
                    CommandExit { reason: exit_reason(status), clean: status.success() }
                }
                Ok(None) | Err(_) => CommandExit::unspawnable(),
            });
        }
        let group = self.child.id().cast_signed();
        let (terminated, killed) = (&self.terminated, self.killed);
        let is_new = |orphan: &Orphan| orphan.group != group && !terminated.contains(&orphan.pid);
        let mut remains = self.signal_remains(|orphan| {
            if killed { Some(Signal::KILL) } else { is_new(orphan).then_some(Signal::TERM) }
        });
        if let Some(exit) = self.exit.take_if(|_| remains.is_empty()) {
            return Standing::Ended(exit);
        }
        remains.retain(is_new);
        self.terminated.extend(remains.iter().map(|orphan| orphan.pid));
        Standing::LeftBehind(remains)
    }

    /// How the command itself ended, if it has, whatever it left behind.
    #[must_use]
    pub fn exit(&self) -> Option<&CommandExit> {
        self.exit.as_ref()
    }

    /// Signals each left-behind process as `signal` returns. Returns all of them.
    fn signal_remains(&self, signal: impl Fn(&Orphan) -> Option<Signal>) -> Vec<Orphan> {
        let group = self.child.id().cast_signed();
        let agent = process::id();
        // A container's first process also adopts what `docker exec` started.
        let is_ours = |orphan: &Orphan| {
            agent != 1
                || orphan.group == group
                || orphan.has_variable(env_vars::OF_THE_COMMAND, &agent.to_string())
        };
        let mut remains =
            self.children.signal_orphans(|orphan| signal(orphan).filter(|_| is_ours(orphan)));
        remains.retain(is_ours);
        remains
    }
}
