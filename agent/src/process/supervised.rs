//! The command of `run` as a process: started, signalled, and looked at whenever a child has ended.

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

/// The command, while it or anything that it started runs. It leads a process group of its own, and
/// what it starts shares its fate, even outside of that group, where daemons go: it is asked to end
/// with it, and has ended before the next start of the command, which may need its port or its file.
#[derive(Debug)]
pub struct SupervisedProcess {
    child: Child,
    children: Children,
    /// How the command itself ended.
    exit: Option<CommandExit>,
    /// Whether its group was asked to end.
    stopping: bool,
    /// What it left behind outside of its group that was asked to end.
    asked: HashSet<Pid>,
    /// Whether it is to be killed.
    killed: bool,
}

/// How things are with a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// As before.
    Same,
    /// A signal stopped it.
    Suspended(&'static str),
    /// It goes on after that.
    Continued,
    /// It has ended, and left processes behind, which were asked to end: these, outside of its group,
    /// since the last time.
    LeftBehind(Vec<Orphan>),
    /// It has ended like this, and all that it started has, too.
    Ended(CommandExit),
}

impl SupervisedProcess {
    /// Starts the command, which ends with the calling thread. It writes to the agent's standard
    /// output and error.
    pub fn start(command: &[OsString], children: &Children) -> io::Result<Self> {
        Ok(Self {
            child: launch(command, children)?,
            children: children.clone(),
            exit: None,
            stopping: false,
            asked: HashSet::new(),
            killed: false,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the command and all that is in its group; once it has ended, to what it
    /// left behind.
    pub fn signal(&mut self, signal: Signal) {
        self.stopping = true;
        self.killed |= signal == Signal::KILL;
        match self.exit {
            None => self.child.signal_group(signal),
            Some(_) => drop(self.signal_remains(|_| Some(signal))),
        }
    }

    /// How things are with it, after a child of this process has changed its state.
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
            // To be asked twice means to hurry, to many programs. Before it is reaped: until then no
            // other group can have its id.
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
        let (asked, killed) = (&self.asked, self.killed);
        let is_new = |orphan: &Orphan| orphan.group != group && !asked.contains(&orphan.pid);
        let mut remains = self.signal_remains(|orphan| {
            if killed { Some(Signal::KILL) } else { is_new(orphan).then_some(Signal::TERM) }
        });
        if let Some(exit) = self.exit.take_if(|_| remains.is_empty()) {
            return Standing::Ended(exit);
        }
        remains.retain(is_new);
        self.asked.extend(remains.iter().map(|orphan| orphan.pid));
        Standing::LeftBehind(remains)
    }

    /// How the command itself ended, if it has, whatever it left behind.
    #[must_use]
    pub fn exit(&self) -> Option<&CommandExit> {
        self.exit.as_ref()
    }

    /// What is left of an ended command, each with the signal that `signal` has for it.
    fn signal_remains(&self, signal: impl Fn(&Orphan) -> Option<Signal>) -> Vec<Orphan> {
        let group = self.child.id().cast_signed();
        let agent = process::id();
        // The first process of a container inherits what others started, too, such as `docker exec`.
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
