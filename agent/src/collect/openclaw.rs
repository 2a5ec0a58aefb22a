//! `OpenClaw`'s version, from `openclaw --version`.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::collect::command::{self, CommandError};
use crate::collect::process::{ProcessHealth, ProcessStatus};
use crate::env_vars;
use crate::process::children::Children;

/// `OpenClaw` is a Node program: on a machine with a shared core and little memory, it took 5 to 8 seconds to start,
/// and twice that while its gateway also started.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// How long a version stays valid for the same process.
const MAX_AGE: Duration = Duration::from_hours(6);

/// Delay after a failure; it doubles with each further failure, up to [`MAX_AGE`]. Each run can take seconds of CPU
/// time.
const FIRST_RETRY: Duration = Duration::from_mins(10);

/// Longest version that is accepted, in bytes.
const MAX_VERSION_BYTES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `2026.3.13` or `2026.2.19-2`.
    pub version: String,
    /// The git commit, if the output has one.
    pub commit: Option<String>,
}

/// Why there is no version, worded to follow the command.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0}")]
    Command(#[from] CommandError),
    /// Its output has no version; this is a line of it.
    #[error("printed no version: {0}")]
    NotAVersion(String),
    #[error("was not run: there was no time left")]
    NoTime,
}

impl ProbeError {
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Command(CommandError::Run(error))
                if error.kind() == ErrorKind::PermissionDenied =>
            {
                "let the agent's user read and execute it".to_owned()
            }
            Self::Command(CommandError::Run(error)) if is_a_limit(error) => {
                "the agent is at a limit of processes or open files: raise it (`ulimit -u`, `ulimit -n`; \
                 in systemd's unit TasksMax= and LimitNOFILE=), or see what uses them up"
                    .to_owned()
            }
            Self::Command(CommandError::Run(_)) | Self::NotAVersion(_) => {
                format!("set {} to the program, with its path", env_vars::OPENCLAW_COMMAND)
            }
            Self::Command(CommandError::TimedOut(_)) => {
                "this machine is too slow or too busy for it, or it waits for something: run it by \
                 hand as the agent's user"
                    .to_owned()
            }
            Self::Command(CommandError::Failed(..)) => {
                "run it by hand as the agent's user".to_owned()
            }
            Self::NoTime => String::new(),
        }
    }
}

/// Whether a limit of this process, its user or the machine prevented the start.
fn is_a_limit(error: &io::Error) -> bool {
    [Errno::AGAIN, Errno::MFILE, Errno::NFILE]
        .map(io::Error::from)
        .iter()
        .any(|limit| limit.raw_os_error() == error.raw_os_error())
}

/// Runs `program --version` and parses its output.
pub fn probe(program: &OsStr, children: &Children) -> Result<Version, ProbeError> {
    let output = command::output(children, Command::new(program).arg("--version"), TIMEOUT)?;
    let output = String::from_utf8_lossy(&output);
    parse(&output).ok_or_else(|| ProbeError::NotAVersion(command::most_useful_line(&output)))
}

/// Identifies the program's file: device, inode, and status change time, which package managers cannot set.
pub type Identity = (u64, u64, i64, i64);

/// The file that `program` would run.
#[must_use]
pub fn identity(program: &OsStr) -> Option<Identity> {
    let path = Path::new(program);
    let found = if program.as_bytes().contains(&b'/') {
        fs::metadata(path).ok()
    } else {
        let directories = std::env::var_os("PATH")?;
        std::env::split_paths(&directories).find_map(|d| fs::metadata(d.join(path)).ok())
    }?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

/// Caches the version, since each run of the program takes seconds of CPU time.
///
/// The program runs at first, when its file has changed, when the process has restarted, since an update takes effect
/// then, and after 6 hours. After a failure it runs again in 10 minutes, then 20 and so on, or at once when its file
/// has changed.
#[derive(Debug, Default)]
pub struct VersionCache {
    /// The version, and when it was read.
    known: Option<(Version, Instant)>,
    /// The last known process.
    process: Option<ProcessStatus>,
    /// The program's file at its last run.
    program: Option<Identity>,
    /// Failures in a row, and the time of the next attempt.
    failed: Option<(u32, Instant)>,
}

/// The result for a check-in.
#[derive(Debug)]
pub struct Known {
    pub version: Option<Version>,
    /// Why the last attempt failed, if there was one now.
    pub error: Option<ProbeError>,
}

impl VersionCache {
    /// Returns the version at `now`; `probe` runs the program.
    ///
    /// If the program fails, the cached version is returned only for the same `process`, which still runs that version.
    /// After a restart, or for an unknown process, it may be wrong, so none is returned.
    pub fn version(
        &mut self,
        program: Option<Identity>,
        process: &ProcessHealth,
        now: Instant,
        probe: impl FnOnce() -> Result<Version, ProbeError>,
    ) -> Known {
        let mut continues = false;
        if let ProcessHealth::Known(status) = process {
            let earlier = self.process.replace(status.clone());
            continues = earlier.as_ref().is_some_and(|earlier| status.continues(earlier));
            if earlier.is_some() && !continues {
                self.known = None;
            }
        }
        let same_program = self.program == program;
        let fresh = |at: &Instant| same_program && now.saturating_duration_since(*at) < MAX_AGE;
        let rests = self.failed.is_some_and(|(_, again_at)| same_program && now < again_at);
        let mut error = None;
        if !rests && !self.known.as_ref().is_some_and(|(_, at)| fresh(at)) {
            match probe() {
                Ok(version) => {
                    self.known = Some((version, now));
                    self.failed = None;
                    self.program = program;
                }
                Err(failure) => {
                    if !continues {
                        self.known = None;
                    }
                    // `NoTime` is no failure: the program runs the next time.
                    if !matches!(failure, ProbeError::NoTime) {
                        let count =
                            self.failed.filter(|_| same_program).map_or(0, |(count, _)| count);
                        let delay = FIRST_RETRY.saturating_mul(1 << count.min(16)).min(MAX_AGE);
                        self.failed = Some((count + 1, now + delay));
                        self.program = program;
                    }
                    error = Some(failure);
                }
            }
        }
        Known { version: self.known.as_ref().map(|(version, _)| version.clone()), error }
    }
}

/// Parses the first line that is a version: optional marks such as an emoji, an optional name, the version, and
/// optional details of the build.
///
/// - `🦞 OpenClaw 2026.3.13 (def5678) — a motto`
/// - `2026.2.19-2 build_sha=abc1234 build_time=2026-02-22T04:58:13Z`
/// - `openclaw/2026.3.13 linux-x64 node-v22.1.0`
///
/// Any other line is a sentence, which may name another version: `2026.4.1 is available`.
#[must_use]
pub fn parse(output: &str) -> Option<Version> {
    output.lines().find_map(|line| parse_line(&without_colours(line)))
}

/// Removes terminal control sequences (ECMA-48: CSI, parameters, a final byte).
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let parameter = |c: char| matches!(c, '\x20'..='\x3f');
        let after = part.trim_start_matches(parameter);
        if let Some(rest) = after.strip_prefix(|c| matches!(c, '\x40'..='\x7e')) {
            plain.push_str(rest);
        } else {
            // Not a control sequence: the control character stays, so the line is not a version.
            plain.push_str("\x1b[");
            plain.push_str(part);
        }
    }
    plain
}

fn parse_line(line: &str) -> Option<Version> {
    let mut words = line.split_whitespace().peekable();
    while words.next_if(|word| is_mark(word)).is_some() {}
    words.next_if(|word| word.eq_ignore_ascii_case("openclaw"));
    words.next_if(|word| word.eq_ignore_ascii_case("version"));
    let word = words.next()?;
    let (name, version) = word.split_once(['/', '@']).unwrap_or(("openclaw", word));
    let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
    if !name.eq_ignore_ascii_case("openclaw") || !is_version(version) {
        return None;
    }
    let commit = match words.next() {
        None => None,
        Some(word) => {
            let commit = word.strip_prefix("build_sha=").or_else(|| parenthesized(word));
            if commit.is_none() && !is_mark(word) && !word.contains(['-', '=']) {
                return None;
            }
            commit.filter(|commit| is_commit(commit))
        }
    };
    Some(Version { version: version.to_owned(), commit: commit.map(str::to_owned) })
}

/// An emoji, a dash or another word without ASCII letters and digits.
fn is_mark(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_alphanumeric() || c.is_control())
}

fn parenthesized(word: &str) -> Option<&str> {
    word.strip_prefix('(')?.strip_suffix(')')
}

/// Numbers between dots, then a pre-release or build suffix: `2026.2.19-2`.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn hints_distinguish_a_resource_limit_from_a_missing_program() {
        let hint = |errno: Errno| ProbeError::Command(CommandError::Run(errno.into())).hint();
        for errno in [Errno::AGAIN, Errno::MFILE, Errno::NFILE] {
            let hint = hint(errno);
            assert!(hint.contains("limit") && !hint.contains(env_vars::OPENCLAW_COMMAND), "{hint}");
        }
        assert!(hint(Errno::NOENT).contains(env_vars::OPENCLAW_COMMAND));
    }

    #[test]
    fn finds_a_version_anywhere_in_the_output() {
        let sha = "9325318d0c992f1e5395a7274f98220ca7999336";
        for (output, commit) in [
            ("\u{1f99e} OpenClaw 2026.3.13 (def5678) \u{2014} The only bot.\n", Some("def5678")),
            (
                "(node:7) Warning: the module 22.1.0 is old\n\nOpenClaw 2026.3.13 (def5678)",
                Some("def5678"),
            ),
            ("Update available: 2026.4.1\n2026.4.1 is available\nOpenClaw 2026.3.13", None),
            ("v2026.3.13", None),
            ("OpenClaw v2026.3.13 (dev)", None),
            ("OpenClaw version 2026.3.13", None),
            ("openclaw/2026.3.13 linux-x64 node-v22.1.0", None),
            ("openclaw@2026.3.13", None),
            (&format!("2026.3.13 build_sha={sha} build_time=2026-02-22T04:58:13Z"), Some(sha)),
            ("2026.3.13 (unknown)", None),
            ("2026.3.13 (def567)", None),
            ("2026.3.13 (def5678) linux", Some("def5678")),
            // With escape sequences.
            ("2026.3.13\u{1b}[0m", None),
            ("\u{1b}[1m\u{1b}[38;5;208mOpenClaw 2026.3.13\u{1b}[0m", None),
            (
                "\u{1b}[1mOpenClaw\u{1b}[m \u{1b}[2;1H2026.3.13 (\u{1b}[?25ldef5678\u{1b}[0m)",
                Some("def5678"),
            ),
        ] {
            assert_eq!(parse(output), Some(version("2026.3.13", commit)), "{output:?}");
        }
    }

    #[test]
    fn rejects_output_without_a_version() {
        for output in [
            "",
            "\n \n",
            "OpenClaw",
            "OpenClaw OpenClaw 2026.3.13",
            "Node 22.1.0",
            "2026",
            "2026.",
            "2026..3",
            "x.y.z",
            "-2026.3",
            "2026.3.13 (def5678",
            "2026.3.13 def5678",
            "error: 2026.3.13 is not installed",
            "2026.3.13 is not installed",
            "OpenClaw 2026.4.1 is available",
            "node/22.1.0 linux-x64",
            "2026.3.13\u{1b}[",
            "2026.3.13\u{1b}]0;title\u{7}",
        ] {
            assert_eq!(parse(output), None, "{output:?}");
        }
        assert_eq!(parse(&format!("1.{}", "0".repeat(MAX_VERSION_BYTES))), None);
    }

    fn known(restarts: u64, uptime_seconds: f64) -> ProcessHealth {
        ProcessHealth::Known(ProcessStatus {
            state: "running".to_owned(),
            pid: Some(7),
            restarts,
            uptime_seconds,
            last_exit_reason: None,
        })
    }

    const PROGRAM: Option<Identity> = Some((1, 1, 1, 1));

    /// A probe that must not run.
    fn unasked() -> Result<Version, ProbeError> {
        panic!("asked again")
    }

    fn prints(text: &'static str) -> impl FnOnce() -> Result<Version, ProbeError> {
        move || Ok(version(text, None))
    }

    fn fails() -> Result<Version, ProbeError> {
        Err(ProbeError::NotAVersion(String::new()))
    }

    #[test]
    fn a_version_is_kept_for_six_hours() {
        let mut cache = VersionCache::default();
        let start = Instant::now();
        for process in [ProcessHealth::NotWatched, ProcessHealth::Unknown, known(0, 1.0)] {
            let mut version =
                |now, probe: fn() -> _| cache.version(PROGRAM, &process, now, probe).version;
            assert!(version(start, || prints("1.0")()).is_some());
            let last = start + Duration::from_mins(6 * 60 - 1);
            assert_eq!(version(last, unasked).unwrap().version, "1.0");
            assert_eq!(version(start + MAX_AGE, || prints("1.1")()).unwrap().version, "1.1");
            cache = VersionCache::default();
        }
    }

    #[test]
    fn a_failing_program_is_retried_with_backoff() {
        let mut cache = VersionCache::default();
        let start = Instant::now();
        let mut runs = Vec::new();
        for minute in (0..24 * 60).step_by(5) {
            let now = start + Duration::from_mins(minute);
            // A restarted process does not shorten the backoff.
            let known = cache.version(PROGRAM, &known(minute, 1.0), now, || {
                runs.push(minute);
                fails()
            });
            assert_eq!(known.error.is_some(), runs.last() == Some(&minute));
            assert!(known.version.is_none());
        }
        assert_eq!(runs, [0, 10, 30, 70, 150, 310, 630, 990, 1350]);
        let now = start + Duration::from_hours(48);
        assert!(cache.version(PROGRAM, &known(0, 2.0), now, prints("1.0")).version.is_some());
    }

    #[test]
    fn a_replaced_program_is_run_at_once() {
        let now = Instant::now();
        let mut cache = VersionCache::default();
        let version = |cache: &mut VersionCache, program, probe: fn() -> _| {
            cache.version(program, &known(0, 1.0), now, probe).version.map(|known| known.version)
        };
        assert_eq!(version(&mut cache, None, fails), None);
        assert_eq!(version(&mut cache, None, unasked), None);
        // The program is installed, then updated.
        let installed = || prints("1.0")();
        assert_eq!(version(&mut cache, PROGRAM, installed), Some("1.0".to_owned()));
        assert_eq!(version(&mut cache, PROGRAM, unasked), Some("1.0".to_owned()));
        let updated = || prints("1.1")();
        let other = Some((1, 2, 1, 1));
        assert_eq!(version(&mut cache, other, updated), Some("1.1".to_owned()));
    }

    #[test]
    fn identity_follows_path_lookup_and_replacement() {
        assert_eq!(identity(OsStr::new("/does/not/exist")), None);
        assert!(identity(OsStr::new("/bin/sh")).is_some());
        assert_eq!(identity(OsStr::new("sh")).is_some(), identity(OsStr::new("/bin/sh")).is_some());
        assert_eq!(identity(OsStr::new("no-such-program-anywhere")), None);
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("openclaw");
        fs::write(&program, "old").unwrap();
        let old = identity(program.as_os_str());
        fs::write(directory.path().join("new"), "new").unwrap();
        fs::rename(directory.path().join("new"), &program).unwrap();
        assert_ne!(identity(program.as_os_str()), old);
    }

    #[test]
    fn a_probe_skipped_for_lack_of_time_runs_the_next_time() {
        let mut cache = VersionCache::default();
        let now = Instant::now();
        let first = cache.version(PROGRAM, &known(0, 1.0), now, || Err(ProbeError::NoTime));
        assert!(first.version.is_none() && first.error.is_some());
        let second = cache.version(PROGRAM, &known(0, 2.0), now, prints("1.0"));
        assert!(second.version.is_some() && second.error.is_none());
    }

    #[test]
    fn a_restarted_process_is_probed_again_without_the_old_version() {
        let now = Instant::now();
        for restarted in [known(1, 400.0), known(0, 3.0)] {
            let mut cache = VersionCache::default();
            assert!(cache.version(PROGRAM, &known(0, 100.0), now, prints("1.0")).version.is_some());
            assert!(cache.version(PROGRAM, &restarted, now, fails).version.is_none());
            assert!(cache.version(PROGRAM, &restarted, now, unasked).version.is_none());
            let later = now + FIRST_RETRY;
            assert_eq!(
                cache.version(PROGRAM, &restarted, later, prints("1.1")).version,
                Some(version("1.1", None))
            );
        }
    }

    #[test]
    fn a_running_process_keeps_its_version_when_a_probe_fails() {
        let mut cache = VersionCache::default();
        let start = Instant::now();
        assert!(cache.version(PROGRAM, &known(0, 1.0), start, prints("1.0")).version.is_some());
        let later = start + MAX_AGE;
        let kept = cache.version(PROGRAM, &known(0, 2.0), later, fails);
        assert_eq!(kept.version, Some(version("1.0", None)));
        assert!(kept.error.is_some());
        // The next probe follows the retry delay, not another six hours.
        let again = later + FIRST_RETRY;
        assert_eq!(
            cache.version(PROGRAM, &known(0, 3.0), again, prints("1.1")).version,
            Some(version("1.1", None))
        );
    }

    #[test]
    fn without_a_known_process_a_failed_probe_discards_the_old_version() {
        let start = Instant::now();
        for process in [ProcessHealth::NotWatched, ProcessHealth::Unknown] {
            let mut cache = VersionCache::default();
            assert!(cache.version(PROGRAM, &known(0, 1.0), start, prints("1.0")).version.is_some());
            let later = start + MAX_AGE;
            assert!(cache.version(PROGRAM, &process, later, fails).version.is_none());
            assert!(cache.version(PROGRAM, &known(0, 2.0), later, unasked).version.is_none());
        }
    }

    #[test]
    fn an_unknown_process_state_does_not_discard_the_version() {
        let mut cache = VersionCache::default();
        let now = Instant::now();
        assert!(cache.version(PROGRAM, &known(0, 1.0), now, prints("1.0")).version.is_some());
        assert!(cache.version(PROGRAM, &ProcessHealth::Unknown, now, unasked).version.is_some());
        assert!(cache.version(PROGRAM, &known(0, 2.0), now, unasked).version.is_some());
        // The process restarted while its state was unknown.
        assert!(cache.version(PROGRAM, &ProcessHealth::Unknown, now, unasked).version.is_some());
        assert!(cache.version(PROGRAM, &known(1, 3.0), now, fails).version.is_none());
    }

    proptest! {
        #[test]
        fn never_panics(output: String) {
            let _ = parse(&output);
        }

        #[test]
        fn an_accepted_version_is_short_and_printable(
            output in "(OpenClaw )?[v0-9.a-z+-]{0,80}( [(]?(build_sha=)?[0-9a-f]{0,50}[)]?)?"
        ) {
            if let Some(Version { version, commit }) = parse(&output) {
                prop_assert!(version.len() <= MAX_VERSION_BYTES && version.is_ascii());
                prop_assert!(commit.is_none_or(|commit| is_commit(&commit)));
            }
        }
    }
}
