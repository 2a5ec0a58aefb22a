//! Child processes that the agent started or inherited.
//!
//! A process with id 1, or a child subreaper, adopts all orphans below it and has to reap them. `wait` for any child
//! would also reap those whose exit status the agent needs, so one [`Children`] starts and reaps all of them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process,
    kill_process_group, pidfd_open, wait, waitid, waitpid,
};

/// Polling interval on kernels without process descriptors (before 5.3).
const TICK: Duration = Duration::from_millis(20);

/// All children of this process. Clones share one registry; only one registry may [adopt](Children::adopting) orphans.
#[derive(Clone, Debug, Default)]
pub struct Children {
    registry: Arc<Mutex<Registry>>,
    adopts: bool,
}

#[derive(Debug, Default)]
struct Registry {
    /// Started and not reaped yet, with a place for the exit status.
    ours: HashMap<Pid, Arc<OnceLock<ExitStatus>>>,
    /// Dropped, and not reaped yet.
    left: HashSet<Pid>,
    /// Whether their output is no longer needed.
    abandoned: bool,
}

/// A started process. If it is dropped before it has ended, it keeps running and is reaped later.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: Arc<OnceLock<ExitStatus>>,
    /// Readable when the process has ended.
    descriptor: Option<OwnedFd>,
    children: Children,
    /// Its standard output, if piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if piped.
    pub stderr: Option<ChildStderr>,
}

impl Children {
    /// For a process that inherits orphans: with id 1, or a child subreaper.
    #[must_use]
    pub fn adopting() -> Self {
        Self { adopts: true, ..Self::default() }
    }

    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // The lock prevents that a process that ends at once is reaped as an orphan.
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

    /// Kills the process groups of all started processes except `spared`, when their output is no longer needed.
    pub fn abandon_all_but(&self, spared: Option<u32>) {
        let mut registry = self.lock();
        registry.abandoned = true;
        let spared = spared.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        for &pid in registry.ours.keys().filter(|&&pid| Some(pid) != spared) {
            // An error means that the process has ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Whether [`abandon_all_but`](Self::abandon_all_but) was called.
    #[must_use]
    pub fn are_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// Reaps ended orphans. Does nothing unless [`adopting`](Self::adopting).
    pub fn reap_orphans(&self) {
        if self.adopts {
            self.lock().reap_orphans();
        }
    }

    /// Sends each living orphan the signal that `signal` returns for it. Returns all orphans.
    pub fn signal_orphans(&self, signal: impl Fn(&Orphan) -> Option<Signal>) -> Vec<Orphan> {
        if !self.adopts {
            return Vec::new();
        }
        // Under the lock, no orphan is reaped, so their process ids stay valid.
        let registry = self.lock();
        let mut orphans = Orphan::all(Path::new("/proc"));
        orphans.retain(|orphan| !registry.ours.contains_key(&orphan.pid));
        for orphan in &orphans {
            if let Some(signal) = signal(orphan) {
                // An orphan that the agent may not signal stays in the list.
                let _ = kill_process(orphan.pid, signal);
            }
        }
        orphans
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // The lock is never poisoned: no code panics while it holds the lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An adopted process, whose parent has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub pid: Pid,
    /// The id of its process group.
    pub group: i32,
    /// The name of its program, truncated by the kernel.
    pub name: String,
}

impl Orphan {
    /// All living children of this process, started or adopted.
    fn all(proc_root: &Path) -> Vec<Self> {
        let own = getpid();
        let entries = fs::read_dir(proc_root).into_iter().flatten().flatten();
        let children = entries.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            Self::parse(pid, own, &String::from_utf8_lossy(&stat))
        });
        children.collect()
    }

    /// Parses `/proc/PID/stat`, whose second field is a name in parentheses that may contain anything.
    fn parse(pid: Pid, parent: Pid, stat: &str) -> Option<Self> {
        let (name, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let alive = !matches!(fields.next()?, "Z" | "X");
        let (its_parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let name = name.split_once('(')?.1.to_owned();
        (alive && Pid::from_raw(its_parent) == Some(parent)).then_some(Self { pid, group, name })
    }

    /// Whether its environment has this variable with this value; false if the environment is not readable.
    #[must_use]
    pub fn has_variable(&self, name: &str, value: &str) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let wanted = format!("{name}={value}");
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    }
}

impl Registry {
    fn reap_orphans(&mut self) {
        // `wait` takes any child, and cannot exclude those of `ours`. So while one of `ours` has ended, its owner reaps
        // it first, and `try_wait` then calls this again. Until it is reaped, its id is not reused, so `signal_group`
        // cannot hit another process.
        while !self.ours.keys().any(|&pid| has_ended(pid)) {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return };
            // One of `ours` may have ended just now.
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
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has ended. Does not reap it.
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
                // The child may have blocked `reap_orphans`.
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

    /// Signals the process group that it leads, unless it was reaped.
    pub fn signal_group(&self, signal: Signal) {
        let _registry = self.children.lock();
        if self.exit.get().is_none() {
            // An error means that it has ended, or that the agent may not signal it; the wait for it has a limit.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// The last change since the previous call: `Some(Some(signal))` if a signal stopped it, `Some(None)` if it
    /// continued.
    #[must_use]
    pub fn suspension(&self) -> Option<Option<i32>> {
        let _registry = self.children.lock();
        let look = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), look).ok()??;
        Some(status.stopping_signal())
    }

    /// Waits for its end or one of `events`, at most until `deadline`; may return without either.
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
        // A deadline beyond the clock's range means no timeout.
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

/// Whether a child has ended or was reaped. Does not reap it.
fn has_ended(pid: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_)) | Err(Errno::CHILD))
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
    fn waits_for_an_exit_with_and_without_a_pidfd() {
        for described in [true, false] {
            let mut child = sh(&Children::default(), "exit 7");
            if !described {
                child.descriptor = None;
            }
            let status = child.wait_until(Instant::now() + AMPLE).unwrap().unwrap();
            assert_eq!(status.code(), Some(7));
            assert_eq!(child.try_wait().unwrap(), Some(status), "same status again");
        }
    }

    #[test]
    fn a_deadline_ends_the_wait_and_a_signal_ends_the_process() {
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
            // By now, its id may be reused; this must not signal anything.
            child.signal_group(Signal::KILL);
        }
    }

    #[test]
    fn a_dropped_child_is_reaped_when_the_next_one_starts() {
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
    fn a_child_reaped_elsewhere_has_ended() {
        for described in [true, false] {
            let mut child = sh(&Children::default(), "exit 7");
            if !described {
                child.descriptor = None;
            }
            waitpid(Some(child.pid), WaitOptions::empty()).unwrap();
            assert!(child.has_ended());
            // Its exit status is lost.
            assert!(child.wait_until(Instant::now() + AMPLE).is_err());
        }
    }

    #[test]
    fn parses_stat_whatever_the_process_name() {
        let pid = |pid| Pid::from_raw(pid).unwrap();
        let parse = |stat: &str| Orphan::parse(pid(7), pid(1), stat);
        let orphan = Orphan { pid: pid(7), group: 6, name: "a) (b".to_owned() };
        assert_eq!(parse("7 (a) (b) S 1 6 5 0 -1"), Some(orphan));
        for other in ["", "7 (a) S 2 6 5", "7 (a) Z 1 6 5", "7 (a) S 1", "7 a S 1 6", ") S 1 6 "] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_started_leaves_no_child() {
        let children = Children::default();
        assert!(children.spawn(&mut Command::new("/does/not/exist")).is_err());
        assert!(children.lock().ours.is_empty());
    }
}
