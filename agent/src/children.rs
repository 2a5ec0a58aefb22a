//! The processes that this one started, and those that it inherits.
//!
//! A process with id 1 becomes the parent of every process in its container whose own parent has
//! ended, and has to reap them. Whoever reaps just any child also takes those that the agent itself
//! waits for; so all that is started and reaped goes through a [`Children`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process,
    kill_process_group, pidfd_open, wait, waitid, waitpid,
};

/// How often a kernel without process descriptors (before 5.3) is asked whether a child has ended.
const TICK: Duration = Duration::from_millis(20);

/// All children of this process. A clone is the same registry; there must be only one of them that
/// [adopts](Children::adopting).
#[derive(Clone, Debug, Default)]
pub struct Children {
    registry: Arc<Mutex<Registry>>,
    adopts: bool,
}

#[derive(Debug, Default)]
struct Registry {
    /// Started here and not reaped yet; where the exit is put down for whoever waits for it.
    ours: HashMap<Pid, Arc<OnceLock<ExitStatus>>>,
    /// Given up, but they have not ended yet.
    left: HashSet<Pid>,
}

/// A process that was started here. One that is dropped before it has ended is left to itself, and
/// reaped later.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: Arc<OnceLock<ExitStatus>>,
    /// Readable once the process has ended.
    descriptor: Option<OwnedFd>,
    children: Children,
    /// Its standard output, where that is piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, where that is piped.
    pub stderr: Option<ChildStderr>,
}

impl Children {
    /// Of a process that inherits orphans: with id 1, or a child subreaper.
    #[must_use]
    pub fn adopting() -> Self {
        Self { adopts: true, ..Self::default() }
    }

    /// Starts a process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Under the lock a process that ends at once is not taken for an orphan.
        let mut registry = self.lock();
        registry.reap_left();
        let mut process = command.spawn()?;
        let pid = Pid::from_child(&process);
        let exit = Arc::new(OnceLock::new());
        registry.ours.insert(pid, exit.clone());
        Ok(Child {
            pid,
            exit,
            descriptor: pidfd_open(pid, PidfdFlags::empty()).ok(),
            children: self.clone(),
            stdout: process.stdout.take(),
            stderr: process.stderr.take(),
        })
    }

    /// Reaps what was inherited and has ended. Without effect but in [`adopting`](Self::adopting).
    pub fn reap_orphans(&self) {
        if self.adopts {
            self.lock().reap_orphans();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Nothing panics half way through a change.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn reap_orphans(&mut self) {
        // The kernel reaps any child or a given one; there is no "all but these". So while one of
        // ours has ended, its owner goes first, whose `try_wait` comes back here. As long as it is
        // not reaped, nobody else can get its id, and killing its group hits no stranger.
        while !self.ours.keys().any(|&pid| has_ended(pid)) {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return };
            // It can still be one of ours, which ended just now.
            if let Some(exit) = self.ours.remove(&pid) {
                let _ = exit.set(exit_status(status));
            }
        }
    }

    fn reap_left(&mut self) {
        self.left.retain(|&pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)));
    }
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has ended. That leaves it to be reaped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let _registry = self.children.lock();
        self.exit.get().is_some() || has_ended(self.pid)
    }

    /// Reaps it if it has ended.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut registry = self.children.lock();
        if self.exit.get().is_none()
            && let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)?
        {
            registry.ours.remove(&self.pid);
            let _ = self.exit.set(exit_status(status));
            if self.children.adopts {
                // They may have waited for this.
                registry.reap_orphans();
            }
        }
        Ok(self.exit.get().copied())
    }

    /// Waits for its end and reaps it; `None` if it has not ended by `deadline`.
    pub fn wait_until(&self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            let status = self.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            self.poll([], deadline)?;
        }
    }

    /// Waits for its end, and leaves it to be reaped; whether it has ended by `deadline`.
    pub fn wait_for_end(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            if self.has_ended() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.poll([], deadline)?;
        }
    }

    /// Sends it a signal, unless it was reaped.
    pub fn signal(&self, signal: Signal) {
        let _registry = self.children.lock();
        if self.exit.get().is_none() {
            // It fails for one that has ended, which needs none.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Sends its process group a signal, unless it was reaped. It must lead one.
    pub fn signal_group(&self, signal: Signal) {
        let _registry = self.children.lock();
        if self.exit.get().is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Waits for its end or for one of `events`, but not longer than until `deadline`; it may come
    /// back for nothing.
    pub(crate) fn poll<'a>(
        &'a self,
        events: impl IntoIterator<Item = PollFd<'a>>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut events: Vec<_> = events.into_iter().collect();
        let mut left = deadline.saturating_duration_since(Instant::now());
        match &self.descriptor {
            Some(descriptor) => events.push(PollFd::new(descriptor, PollFlags::IN)),
            None => left = left.min(TICK),
        }
        // A deadline beyond the clock's range is none.
        match poll(&mut events, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut registry = self.children.lock();
        if self.exit.get().is_none() {
            registry.ours.remove(&self.pid);
            if !self.children.adopts {
                registry.left.insert(self.pid);
                registry.reap_left();
            }
        }
    }
}

/// Whether a child has ended; it remains to be reaped.
fn has_ended(pid: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_)))
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;

    use super::*;

    /// Long enough for a shell to start on a busy machine.
    const AMPLE: Duration = Duration::from_mins(1);

    fn sh(children: &Children, script: &str) -> Child {
        children.spawn(Command::new("sh").args(["-c", script]).process_group(0)).unwrap()
    }

    #[test]
    fn an_end_is_waited_for_with_and_without_a_descriptor() {
        for described in [true, false] {
            let mut child = sh(&Children::default(), "exit 7");
            if !described {
                child.descriptor = None;
            }
            let status = child.wait_until(Instant::now() + AMPLE).unwrap().unwrap();
            assert_eq!(status.code(), Some(7));
            assert_eq!(child.try_wait().unwrap(), Some(status), "told again");
        }
    }

    #[test]
    fn a_deadline_ends_the_wait_and_a_signal_the_process() {
        for described in [true, false] {
            let mut child = sh(&Children::default(), "sleep 600");
            if !described {
                child.descriptor = None;
            }
            let deadline = Instant::now() + Duration::from_millis(50);
            assert_eq!(child.wait_until(deadline).unwrap(), None);
            assert!(!child.has_ended());
            child.signal_group(Signal::KILL);
            let status = child.wait_until(Instant::now() + AMPLE).unwrap().unwrap();
            assert_eq!(status.signal(), Some(9));
            // Its id may be another's by now.
            child.signal(Signal::KILL);
            child.signal_group(Signal::KILL);
        }
    }

    #[test]
    fn what_is_dropped_is_reaped_when_the_next_one_starts() {
        let children = Children::default();
        let child = sh(&children, "sleep 600");
        let (id, group) = (child.id(), child.pid);
        drop(child);
        kill_process_group(group, Signal::KILL).unwrap();
        let deadline = Instant::now() + AMPLE;
        while PathBuf::from(format!("/proc/{id}")).exists() {
            assert!(Instant::now() < deadline);
            sh(&children, "exit 0").wait_until(deadline).unwrap().unwrap();
        }
        assert!(children.lock().left.is_empty());
        assert!(children.lock().ours.is_empty());
    }

    #[test]
    fn what_cannot_be_started_is_no_child() {
        let children = Children::default();
        assert!(children.spawn(&mut Command::new("/does/not/exist")).is_err());
        assert!(children.lock().ours.is_empty());
    }
}
