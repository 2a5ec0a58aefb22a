//! The state file: counters for the next start, and the agent's status for `status`.

use std::fmt::{self, Display};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use procfs_core::FromRead;
use procfs_core::process::Stat;
use rustix::fs::{Access, OFlags, StatVfs, access, statvfs};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::cli::{StateArguments, VERSION_AND_COMMIT};
use crate::collect::boot;
use crate::collect::process::ProcessStatus;
use crate::report::ledger::Ledger;

/// Maximum size of a state file, in bytes; with hundreds of interfaces it has a tenth of that.
const MAX_BYTES: u64 = 1024 * 1024;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub sandbox_id: String,
    pub ledger: Ledger,
    /// The running agent; `None` after `once`.
    pub agent: Option<Agent>,
}

/// The state of a running agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub pid: u32,
    /// When that process started, in ticks since boot. It detects a reused process id.
    pub pid_started_ticks: Option<u64>,
    /// The boot that it runs in.
    pub boot_id: Option<String>,
    pub version: String,
    pub started: Time,
    /// When this was written.
    pub updated: Time,
    pub last_accepted: Option<Time>,
    /// The last check-in that was not accepted, even if a later one was.
    pub last_error: Option<Failure>,
    /// Number of check-ins in a row that were not accepted.
    pub failures_in_a_row: u64,
    /// When the next check-in is due; `None` while the agent stops.
    pub next_attempt: Option<Time>,
    /// The same on the monotonic clock, with which `status` decides whether it is overdue.
    pub next_attempt_uptime: Option<Uptime>,
    /// Longest time from that attempt's start until its result is in this file, in seconds.
    pub attempt_timeout_seconds: u64,
    pub process: Process,
}

impl Agent {
    /// An agent that starts at `now`, with the last results of the one `before`.
    #[must_use]
    pub fn starting(before: Option<&Self>, now: SystemTime) -> Self {
        let now = Time::new(now);
        Self {
            pid: process::id(),
            pid_started_ticks: stat(process::id()).map(|stat| stat.starttime),
            boot_id: boot_id(),
            version: VERSION_AND_COMMIT.to_owned(),
            started: now,
            updated: now,
            last_accepted: before.and_then(|before| before.last_accepted),
            last_error: before.and_then(|before| before.last_error.clone()),
            failures_in_a_row: 0,
            next_attempt: None,
            next_attempt_uptime: None,
            attempt_timeout_seconds: 0,
            process: Process::new(None, now),
        }
    }

    /// Whether it still runs, as far as this process can see.
    pub fn runs(&self) -> Result<(), NotRunning> {
        let differ = |ours: Option<&str>, theirs: Option<&str>| {
            ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs)
        };
        if differ(boot_id().as_deref(), self.boot_id.as_deref()) {
            return Err(NotRunning::Rebooted);
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // A process of another user counts as well.
        if pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            return Err(NotRunning::Ended(self.pid));
        }
        match (stat(self.pid), self.pid_started_ticks) {
            (Some(stat), Some(started)) if stat.starttime != started => {
                Err(NotRunning::Ended(self.pid))
            }
            _ => Ok(()),
        }
    }

    /// Whether a signal such as SIGSTOP has stopped its command.
    #[must_use]
    pub fn command_is_stopped(&self) -> bool {
        // Only for a child of the agent: a controller may report a process id of another PID namespace.
        let stat = self.process.pid.and_then(stat);
        let agent = i32::try_from(self.pid).ok();
        stat.is_some_and(|stat| stat.state == 'T' && Some(stat.ppid) == agent)
    }

    /// One line, which systemd shows as the service's status.
    #[must_use]
    pub fn summary(&self) -> String {
        let state = &self.process.state;
        match (self.failures_in_a_row, &self.last_error, &self.last_accepted) {
            (1.., Some(Failure { code, .. }), _) => {
                format!(
                    "process {state}, {} check-ins not accepted: {code}",
                    self.failures_in_a_row
                )
            }
            (_, _, Some(at)) => format!("process {state}, last check-in accepted {at}"),
            _ => format!("process {state}, no check-in yet"),
        }
    }
}

/// Why an agent does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRunning {
    /// It belongs to an earlier boot.
    #[error("the machine has rebooted since")]
    Rebooted,
    /// No such process exists, or another one has its id.
    #[error("its process {0} is gone")]
    Ended(u32),
}

fn stat(pid: u32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{pid}/stat")).ok()
}

fn boot_id() -> Option<String> {
    boot::boot_id(Path::new("/proc"))
}

/// A check-in that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub at: Time,
    /// The server's code, `http_<status>` if it has none, or the code of a network error.
    pub code: String,
    /// What happened, and what to check.
    pub message: String,
}

/// The reported process, as far as known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// `running`, `crashed` and so on; `unknown` if reading it failed.
    pub state: String,
    pub pid: Option<u32>,
    pub restarts: u64,
    /// Uptime in seconds when it was [seen](Self::seen).
    pub uptime_seconds: f64,
    /// `signal:<NAME>`, `code:<N>`, or empty before the first exit; `None` if unknown.
    pub last_exit_reason: Option<String>,
    pub seen: Time,
    /// Number of crashes in a row, each soon after a start; 0 unless the agent supervises it.
    #[serde(default)]
    pub crashes_in_a_row: u32,
    /// When it restarts, if it waits for a restart.
    pub next_start: Option<Time>,
}

impl Process {
    /// `None` means that the state is unknown.
    #[must_use]
    pub fn new(status: Option<&ProcessStatus>, seen: Time) -> Self {
        let unknown = ProcessStatus { state: "unknown".to_owned(), ..ProcessStatus::default() };
        let ProcessStatus { state, pid, restarts, uptime_seconds, last_exit_reason } =
            status.unwrap_or(&unknown).clone();
        Self {
            state,
            pid,
            restarts,
            uptime_seconds,
            last_exit_reason,
            seen,
            crashes_in_a_row: 0,
            next_start: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("not a state file: {0}")]
    Parse(#[from] serde_json::Error),
}

impl State {
    #[must_use]
    pub fn new(sandbox_id: &str) -> Self {
        Self { sandbox_id: sandbox_id.to_owned(), ledger: Ledger::default(), agent: None }
    }

    /// Reads a state file of any user; `None` if it does not exist.
    pub fn load(path: &Path) -> Result<Option<Self>, LoadError> {
        let file = match opened(OpenOptions::new().read(true), path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(odd(format!("it is larger than {MAX_BYTES} bytes")).into());
        }
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Reads a state file of this process's user or root. Its content is sent, so another user must not control it.
    pub fn load_own(path: &Path) -> Result<Option<Self>, LoadError> {
        match check(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            checked => checked.map_err(LoadError::from).and_then(|()| Self::load(path)),
        }
    }

    /// Writes a state file atomically, so that a crash leaves the old or the new one. Only its owner can read it.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // The rename would replace anything at this path, even a device.
        check(path, true)?;
        let mut file = NamedTempFile::new_in(directory(path))?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        // Without the sync, the rename may reach the disk before the content.
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    }
}

/// Opens a regular file. It neither follows a symbolic link nor waits for the other end of a pipe.
fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path);
    let file = match file {
        Err(error) if is_link(path) => {
            return Err(io::Error::new(error.kind(), "it is a link, which is not followed"));
        }
        file => file?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(odd("it is no regular file")) }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

fn odd(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

/// Refuses a path that is unsafe for a state file: it is not a regular file, another user can replace it, or, if it
/// must be `owned`, it belongs neither to this process's user nor to root.
pub fn check(path: &Path, owned: bool) -> io::Result<()> {
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let trusted = |found: &Metadata| [0, geteuid().as_raw()].contains(&found.uid());
    let directory = fs::metadata(directory(path))?;
    // In a directory of this user or root, another user can at most put something that is refused below.
    if directory.mode() & 0o002 != 0 && !trusted(&directory) {
        return denied(format!(
            "anybody can write to its directory, which is of another user, with id {}",
            directory.uid()
        ));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.is_file() => Err(odd("it is no regular file")),
        Ok(found) if owned && !trusted(&found) => {
            denied(format!("it belongs to another user, with id {}", found.uid()))
        }
        Ok(_) => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the state file {} is in use by another agent{}: two would report the same bytes twice; stop that \
     one, or name another file with --state-file",
    .path.display(),
    .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
)]
pub struct InUse {
    path: PathBuf,
    pid: Option<u32>,
}

/// Locks a state file for this process's lifetime. The lock is on a file beside it, since every write replaces the state
/// file itself.
///
/// If locking fails, the agent continues and gets the reason in `warn`; except where no state file can be written either,
/// which is reported separately.
pub fn lock(path: &Path, warn: impl FnOnce(&str)) -> Result<Option<File>, InUse> {
    if check(path, true).is_err() {
        return Ok(None);
    }
    let file = match open_lock(path, true) {
        Ok(file) => file,
        Err(error) => {
            if unwritable(path).is_none() {
                warn(&error.to_string());
            }
            return Ok(None);
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::Error(error)) => {
            warn(&NotLocked { name: lock_name(path), error }.to_string());
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => {
            let state = State::load(path).ok().flatten();
            let pid = state.and_then(|state| state.agent).map(|agent| agent.pid);
            Err(InUse { path: path.to_owned(), pid })
        }
    }
}

/// Why an agent could not lock a writable state file; leaves no file behind.
#[must_use]
pub fn unlockable(path: &Path) -> Option<NotLocked> {
    match open_lock(path, false) {
        Err(NotLocked { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        opened => opened.err(),
    }
}

/// The state file cannot be locked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state file cannot be locked, so nothing keeps another agent from using it, too: {error}: {}",
    .name.display()
)]
pub struct NotLocked {
    name: PathBuf,
    error: io::Error,
}

fn lock_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn open_lock(path: &Path, create: bool) -> Result<File, NotLocked> {
    let name = lock_name(path);
    // Another user cannot block the agent with a file of that name.
    let file = check(&name, true)
        .and_then(|()| opened(OpenOptions::new().write(true).create(create).mode(0o600), &name));
    file.map_err(|error| NotLocked { name, error })
}

/// Why no state file can be written at this path, as far as can be known without writing it.
///
/// Its age says nothing: without events, nothing is written.
#[must_use]
pub fn unwritable(path: &Path) -> Option<io::Error> {
    let directory = directory(path);
    if let Err(error) = access(directory, Access::WRITE_OK) {
        return Some(error.into());
    }
    // Some file systems report no number of inodes.
    let full = |space: &StatVfs| {
        space.f_bavail == 0 && space.f_blocks > 0 || space.f_favail == 0 && space.f_files > 0
    };
    statvfs(directory).ok().filter(full).map(|_| io::ErrorKind::StorageFull.into())
}

/// The directory of a state file. New content is first written here, since a rename is atomic only within a file
/// system.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// The state file of a running agent. Problems with it never stop the agent.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// The last write error: a lasting one is logged once.
    unwritable: Option<io::ErrorKind>,
    /// Held while the agent runs.
    _lock: Option<File>,
}

impl StateFile {
    /// The requested file, or the first default place, whose directory is created if necessary.
    pub fn new(arguments: &StateArguments) -> Result<Self, InUse> {
        let path = arguments.paths().swap_remove(0);
        if let (None, Some(directory)) = (&arguments.state_file, path.parent()) {
            // If this fails, so does writing the file, which is logged.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        let lock = lock(&path, |why| tracing::warn!("{why}"))?;
        Ok(Self { path, unwritable: None, _lock: lock })
    }

    /// The stored state of a sandbox.
    #[must_use]
    pub fn load(&self, sandbox_id: &str) -> State {
        let path = self.path.display();
        match State::load_own(&self.path) {
            Ok(Some(state)) if state.sandbox_id == sandbox_id => return state,
            Ok(Some(_)) => tracing::warn!("starting over: {path} is another sandbox's state file"),
            Ok(None) => {}
            Err(error) => tracing::warn!("starting over without the state file {path}: {error}"),
        }
        State::new(sandbox_id)
    }

    pub fn save(&mut self, state: &State) {
        let error = state.save(&self.path).err();
        let kind = error.as_ref().map(io::Error::kind);
        if error.is_none() && self.unwritable.is_some() {
            tracing::info!("the state file {} is written again", self.path.display());
        }
        if let Some(error) = error
            && self.unwritable != kind
        {
            tracing::warn!(
                "cannot write the state file {}, so `status` has nothing to show, and \
                 unreported counters are lost if the agent ends; --state-file can name another: {error}",
                self.path.display()
            );
        }
        self.unwritable = kind;
    }
}

impl StateArguments {
    /// Paths at which the state file may be, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state_file.clone().map_or_else(|| self.default_paths(), |path| vec![path])
    }

    fn default_paths(&self) -> Vec<PathBuf> {
        default_paths(self.runtime_directory.as_deref(), self.xdg_runtime_dir.as_deref())
    }
}

fn default_paths(runtime_directory: Option<&Path>, xdg: Option<&Path>) -> Vec<PathBuf> {
    // systemd separates several directories by colons; the first one is enough.
    let service = runtime_directory
        .and_then(|paths| paths.to_str())
        .and_then(|paths| paths.split(':').next())
        .map(|path| Path::new(path).join("state.json"));
    let user = xdg.map(|path| path.join("kiloclaw-agent/state.json"));
    let system = Path::new("/run/kiloclaw-agent/state.json").to_owned();
    [service, user, Some(system)].into_iter().flatten().collect()
}

/// A time, printed in RFC 3339 to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(SystemTime);

impl Time {
    #[must_use]
    pub fn new(time: SystemTime) -> Self {
        Self(time)
    }

    /// The time since then; zero if it is in the future.
    #[must_use]
    pub fn before(self, now: SystemTime) -> Duration {
        now.duration_since(self.0).unwrap_or_default()
    }

    /// The time until then; zero if it is in the past.
    #[must_use]
    pub fn after(self, now: SystemTime) -> Duration {
        self.0.duration_since(now).unwrap_or_default()
    }
}

impl From<Time> for SystemTime {
    fn from(Time(time): Time) -> Self {
        time
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl FromStr for Time {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Self)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A time of the monotonic clock, which is the same for all processes of a machine: unlike
/// [`Instant`](std::time::Instant), it can be stored. It cannot be set, and pauses while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    #[must_use]
    pub fn now() -> Self {
        Self(clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default())
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The time from this to `now`; zero if it is in the future.
    #[must_use]
    pub fn before(self, now: Self) -> Duration {
        now.0.saturating_sub(self.0)
    }
}

impl Serialize for Uptime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_secs_f64().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Uptime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use proptest::prelude::*;

    use super::*;

    /// Fails the test on a warning about the lock.
    fn unwarned(why: &str) {
        panic!("{why}");
    }

    fn time(seconds: u64) -> Time {
        Time::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn full() -> State {
        let status = ProcessStatus {
            state: "running".to_owned(),
            pid: Some(42),
            restarts: 3,
            uptime_seconds: 12.5,
            last_exit_reason: Some("code:1".to_owned()),
        };
        State {
            agent: Some(Agent {
                pid: 42,
                pid_started_ticks: Some(7),
                boot_id: Some("192c5281-bf1e-4712-86d7-3448f8fb3f2d".to_owned()),
                version: "1.2.3 (abcdef)".to_owned(),
                started: time(1),
                updated: time(2),
                last_accepted: Some(time(3)),
                last_error: Some(Failure {
                    at: time(4),
                    code: "wrong_api_key".to_owned(),
                    message: "check the key".to_owned(),
                }),
                failures_in_a_row: 2,
                next_attempt: Some(time(6)),
                next_attempt_uptime: Some(Uptime(Duration::from_millis(6_500))),
                attempt_timeout_seconds: 25,
                process: Process::new(Some(&status), time(5)),
            }),
            ..State::new("sandbox-1")
        }
    }

    #[test]
    fn a_state_file_round_trips() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(State::load(&path).unwrap(), None);
        for state in [full(), State::new("sandbox-2")] {
            state.save(&path).unwrap();
            assert_eq!(State::load(&path).unwrap(), Some(state));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn only_the_owner_can_read_a_state_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        full().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unwritable_state_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(full().save(&directory.path().join("missing/state.json")).is_err());
        // A directory cannot be replaced by a file.
        assert!(full().save(directory.path()).is_err());
    }

    #[test]
    fn anything_but_a_regular_file_is_neither_read_nor_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let made = process::Command::new("mkfifo").arg(path("fifo")).status().unwrap();
        assert!(made.success());
        full().save(&path("state.json")).unwrap();
        symlink(path("state.json"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mut paths =
            ["fifo", "link", "dangling", "device", "directory", "socket"].map(path).to_vec();
        paths.extend(["/dev/null", "/dev/zero", "/dev/tty"].map(PathBuf::from));
        for path in paths {
            // Neither hangs nor reads a device without end nor replaces anything.
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            assert!(matches!(State::load(&path), Err(LoadError::Read(_))), "{path:?}");
            assert!(matches!(State::load_own(&path), Err(LoadError::Read(_))), "{path:?}");
            assert!(full().save(&path).is_err(), "{path:?}");
            assert!(lock(&path, unwarned).unwrap().is_none(), "{path:?}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before, "{path:?}");
        }
        let large = File::create(path("large")).unwrap();
        large.set_len(1 << 40).unwrap();
        let error = State::load(&path("large")).unwrap_err().to_string();
        assert!(error.contains("larger than"), "{error}");
    }

    #[test]
    fn files_and_directories_of_other_users_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        // As a volume in a container may be.
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        full().save(&path).unwrap();
        assert!(State::load_own(&path).unwrap().is_some());
        let foreign = |path: &Path| chown(path, Some(54_321), None);
        if foreign(&path).is_err() {
            // Only root can change the owner of a file.
            return;
        }
        let denied = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        };
        assert!(matches!(State::load_own(&path), Err(LoadError::Read(_))));
        denied(full().save(&path));
        assert!(lock(&path, unwarned).unwrap().is_none());
        // `load` reads it, since `status` only displays it.
        assert!(State::load(&path).unwrap().is_some());
        fs::remove_file(&path).unwrap();
        full().save(&path).unwrap();
        foreign(directory.path()).unwrap();
        denied(full().save(&path));
        denied(check(&path, false));
        assert!(matches!(State::load_own(&path), Err(LoadError::Read(_))));
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        full().save(&path).unwrap();
    }

    #[test]
    fn one_agent_at_a_time_locks_a_state_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let held = lock(&path, unwarned).unwrap();
        assert!(held.is_some());
        full().save(&path).unwrap();
        let error = lock(&path, unwarned).unwrap_err().to_string();
        assert!(error.contains("in use by another agent (process 42)"), "{error}");
        drop(held);
        assert!(lock(&path, unwarned).unwrap().is_some());
        assert!(lock(&directory.path().join("missing/state.json"), unwarned).unwrap().is_none());
    }

    #[test]
    fn unwritable_reports_a_missing_directory_without_writing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(unwritable(&directory.path().join("state.json")).is_none());
        let missing = unwritable(&directory.path().join("missing/state.json")).unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_file_of_an_older_version_is_read() {
        let mut text = serde_json::to_value(full()).unwrap();
        let agent = text["agent"].as_object_mut().unwrap();
        for name in ["nextAttemptUptime", "pidStartedTicks", "bootId"] {
            agent.remove(name).unwrap();
        }
        let process = agent["process"].as_object_mut().unwrap();
        for name in ["crashesInARow", "nextStart"] {
            process.remove(name).unwrap();
        }
        let agent = serde_json::from_value::<State>(text).unwrap().agent.unwrap();
        assert_eq!((agent.next_attempt_uptime, agent.pid_started_ticks), (None, None));
    }

    #[test]
    fn an_agent_runs_only_while_its_own_process_does() {
        let agent = Agent::starting(None, SystemTime::now());
        assert_eq!(agent.runs(), Ok(()));
        let reused = Agent { pid_started_ticks: Some(1), ..agent.clone() };
        assert_eq!(reused.runs(), Err(NotRunning::Ended(agent.pid)));
        let gone = Agent { pid: u32::MAX, ..agent.clone() };
        assert_eq!(gone.runs(), Err(NotRunning::Ended(u32::MAX)));
        let rebooted = Agent { boot_id: full().agent.unwrap().boot_id, ..agent.clone() };
        assert_eq!(rebooted.runs(), Err(NotRunning::Rebooted));
        // An older version recorded only the process id.
        assert_eq!(Agent { pid_started_ticks: None, boot_id: None, ..agent }.runs(), Ok(()));
    }

    #[test]
    fn a_corrupt_state_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for text in ["", "{", "[1]", "{}", "\0\0\0\0", r#"{"sandboxId":1,"ledger":{}}"#] {
            fs::write(&path, text).unwrap();
            assert!(matches!(State::load(&path), Err(LoadError::Parse(_))), "{text:?}");
        }
    }

    #[test]
    fn the_default_directory_is_the_services_then_the_users_then_the_systems() {
        let paths = |runtime: Option<&str>, xdg: Option<&str>| {
            default_paths(runtime.map(Path::new), xdg.map(Path::new))
        };
        let system = "/run/kiloclaw-agent/state.json";
        assert_eq!(paths(None, None), [Path::new(system)]);
        assert_eq!(
            paths(Some("/run/a:/run/b"), Some("/run/user/0")),
            ["/run/a/state.json", "/run/user/0/kiloclaw-agent/state.json", system].map(Path::new)
        );
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(time(1_700_000_000).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(time(1_700_000_000)));
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(1);
        assert_eq!((time(0).before(now).as_secs(), time(0).after(now).as_secs()), (60, 0));
        assert_eq!((time(90).before(now).as_secs(), time(90).after(now).as_secs()), (0, 30));
    }

    proptest! {
        #[test]
        fn every_time_until_the_year_10000_round_trips(
            seconds in 0_u64..253_402_300_799,
        ) {
            prop_assert_eq!(time(seconds).to_string().parse(), Ok(time(seconds)));
        }
    }
}
