//! `OpenClaw`'s version, from its own `--version`.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::children::Children;
use crate::collect::command::{self, CommandError};
use crate::collect::process::{ProcessHealth, Status};

/// How long the program may take. It is a Node program: on a small machine, starting alone takes a
/// second or two.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a version is taken for granted, as long as the process goes on.
const MAX_AGE: Duration = Duration::from_hours(6);

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
    /// It printed nothing.
    #[error("{0}")]
    Command(#[from] CommandError),
    /// It printed something else.
    #[error("did not print a version")]
    NotAVersion,
    /// It was not even started.
    #[error("was not run: there is no time for it")]
    NoTime,
}

/// Runs `program --version` and reads what it prints.
pub fn probe(program: &OsStr, children: &Children) -> Result<Version, ProbeError> {
    let output = command::output(children, Command::new(program).arg("--version"), TIMEOUT)?;
    parse(&String::from_utf8_lossy(&output)).ok_or(ProbeError::NotAVersion)
}

/// Knows the version without running the program each time: it takes seconds of CPU.
///
/// The program is run at first, when the process is another one (that is how an update takes
/// effect), after 6 hours, and again at the next check-in after it failed.
#[derive(Debug, Default)]
pub struct VersionCache {
    /// The version, and when it was told.
    told: Option<(Version, Instant)>,
    /// The process, as it was known last.
    process: Option<Status>,
}

/// What there is to report about the version.
#[derive(Debug)]
pub struct Known {
    /// The version.
    pub version: Option<Version>,
    /// Why it could not be told just now, where that was tried.
    pub error: Option<ProbeError>,
}

impl VersionCache {
    /// The version, at `now` and beside this process. `probe` is what asks for it.
    ///
    /// When that fails, an older version is reported only for a process that is known to be the one
    /// that it was told for: that one still runs what it ran before. After a restart, or where the
    /// process is not known, the older version may be wrong, and there is none.
    pub fn version(
        &mut self,
        process: &ProcessHealth,
        now: Instant,
        probe: impl FnOnce() -> Result<Version, ProbeError>,
    ) -> Known {
        let mut continues = false;
        if let ProcessHealth::Known(status) = process {
            let earlier = self.process.replace(status.clone());
            continues = earlier.as_ref().is_some_and(|earlier| status.continues(earlier));
            if earlier.is_some() && !continues {
                self.told = None;
            }
        }
        if let Some((version, at)) = &self.told
            && now.saturating_duration_since(*at) < MAX_AGE
        {
            return Known { version: Some(version.clone()), error: None };
        }
        match probe() {
            Ok(version) => {
                self.told = Some((version.clone(), now));
                Known { version: Some(version), error: None }
            }
            Err(error) => {
                if !continues {
                    self.told = None;
                }
                Known {
                    version: self.told.as_ref().map(|(version, _)| version.clone()),
                    error: Some(error),
                }
            }
        }
    }
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

    fn known(restarts: u64, uptime_seconds: f64) -> ProcessHealth {
        ProcessHealth::Known(Status {
            state: "running".to_owned(),
            pid: Some(7),
            restarts,
            uptime_seconds,
            last_exit_reason: None,
        })
    }

    /// A probe that must not be run.
    fn unasked() -> Result<Version, ProbeError> {
        panic!("asked again")
    }

    fn tells(text: &'static str) -> impl FnOnce() -> Result<Version, ProbeError> {
        move || Ok(version(text, None))
    }

    fn fails() -> Result<Version, ProbeError> {
        Err(ProbeError::NotAVersion)
    }

    #[test]
    fn a_version_is_kept_for_six_hours() {
        let mut cache = VersionCache::default();
        let start = Instant::now();
        for process in [ProcessHealth::NotWatched, ProcessHealth::Unknown, known(0, 1.0)] {
            let mut version = |now, probe: fn() -> _| cache.version(&process, now, probe).version;
            assert!(version(start, || tells("1.0")()).is_some());
            let last = start + Duration::from_mins(6 * 60 - 1);
            assert_eq!(version(last, unasked).unwrap().version, "1.0");
            assert_eq!(version(start + MAX_AGE, || tells("1.1")()).unwrap().version, "1.1");
            cache = VersionCache::default();
        }
    }

    #[test]
    fn a_failure_is_not_kept() {
        let mut cache = VersionCache::default();
        let now = Instant::now();
        let first = cache.version(&known(0, 1.0), now, fails);
        assert!(first.version.is_none() && first.error.is_some());
        let second = cache.version(&known(0, 2.0), now, tells("1.0"));
        assert!(second.version.is_some() && second.error.is_none());
    }

    #[test]
    fn another_process_is_asked_anew_and_inherits_nothing() {
        let now = Instant::now();
        for restarted in [known(1, 400.0), known(0, 3.0)] {
            let mut cache = VersionCache::default();
            assert!(cache.version(&known(0, 100.0), now, tells("1.0")).version.is_some());
            assert!(cache.version(&restarted, now, fails).version.is_none());
            assert!(cache.version(&restarted, now, fails).version.is_none());
            assert_eq!(
                cache.version(&restarted, now, tells("1.1")).version,
                Some(version("1.1", None))
            );
        }
    }

    #[test]
    fn a_process_that_goes_on_keeps_its_version_when_asking_fails() {
        let mut cache = VersionCache::default();
        let start = Instant::now();
        assert!(cache.version(&known(0, 1.0), start, tells("1.0")).version.is_some());
        let later = start + MAX_AGE;
        let kept = cache.version(&known(0, 2.0), later, fails);
        assert_eq!(kept.version, Some(version("1.0", None)));
        assert!(kept.error.is_some());
        // And it is asked again, not after another six hours.
        assert_eq!(
            cache.version(&known(0, 3.0), later, tells("1.1")).version,
            Some(version("1.1", None))
        );
    }

    #[test]
    fn without_a_known_process_an_old_version_is_not_reported_when_asking_fails() {
        let start = Instant::now();
        for process in [ProcessHealth::NotWatched, ProcessHealth::Unknown] {
            let mut cache = VersionCache::default();
            assert!(cache.version(&known(0, 1.0), start, tells("1.0")).version.is_some());
            assert!(cache.version(&process, start + MAX_AGE, fails).version.is_none());
            assert!(cache.version(&known(0, 2.0), start + MAX_AGE, fails).version.is_none());
        }
    }

    #[test]
    fn a_moment_without_an_answer_does_not_make_another_process() {
        let mut cache = VersionCache::default();
        let now = Instant::now();
        assert!(cache.version(&known(0, 1.0), now, tells("1.0")).version.is_some());
        assert!(cache.version(&ProcessHealth::Unknown, now, unasked).version.is_some());
        assert!(cache.version(&known(0, 2.0), now, unasked).version.is_some());
        // It was restarted while nobody could tell.
        assert!(cache.version(&ProcessHealth::Unknown, now, unasked).version.is_some());
        assert!(cache.version(&known(1, 3.0), now, fails).version.is_none());
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
