//! Checks the readings, and the location of the state file.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{Settings, StateArguments};
use crate::collect::disk::{Disk, DiskReader};
use crate::collect::network::{Counters, Interfaces};
use crate::collect::process::{ProcessHealth, ProcessStatus};
use crate::collect::status_url::{StatusError, StatusResponse};
use crate::collect::systemd::SystemdError;
use crate::collect::{Readings, Source, boot, load, network, openclaw, status_url};
use crate::commands::doctor::check::{CheckName, Report, Verdict};
use crate::config::Checked;
use crate::env_vars;
use crate::process::children::Children;
use crate::report::explain;
use crate::report::send::Outcome;
use crate::state::{self, State};

/// Takes all readings; each can fail alone.
pub fn collect(settings: &Settings, usable: &Checked) -> (Readings, Vec<(CheckName, Verdict)>) {
    let proc_root = &settings.proc_root;
    let children = Children::default();
    let load = load::read(proc_root);
    let disk = settings.disk_path.clone().map(|path| DiskReader::new(path).read());
    let network = network::read(proc_root);
    let (health, restarts, process_verdict) = process(usable, &children);
    let openclaw = openclaw::probe(&settings.openclaw_command, &children);

    let unreadable = |what: &str, error: &dyn std::error::Error| {
        Verdict::failed(
            "unreadable",
            format!("{}: {error}", proc_root.join(what).display()),
            format!("check-ins report 0 instead; check that {} is mounted", proc_root.display()),
        )
    };
    let verdicts = vec![
        (
            CheckName::Load,
            match &load {
                Ok(load) => Verdict::passed(format!("{load} over 5 minutes")),
                Err(error) => unreadable("loadavg", error),
            },
        ),
        (
            CheckName::Disk,
            match &disk {
                None => Verdict::skipped(format!("{} is not set", env_vars::DISK_PATH)),
                Some(Ok(Disk { used, total })) => {
                    Verdict::passed(format!("{used} of {total} bytes used"))
                }
                Some(Err(error)) => Verdict::warned(
                    "unreadable",
                    format!("{error}; check-ins report no disk"),
                    format!("set {} to a folder on the file system to report", env_vars::DISK_PATH),
                ),
            },
        ),
        (
            CheckName::Network,
            match (&network, &usable.interfaces) {
                (Err(error), _) => unreadable("net/dev", error),
                (_, None) => Verdict::skipped_after(CheckName::Configuration),
                (Ok(counters), Some(interfaces)) => traffic(interfaces, counters),
            },
        ),
        (CheckName::Openclaw, version(&settings.openclaw_command, &openclaw)),
        (CheckName::Process, process_verdict),
    ];
    let readings = Readings {
        load_avg_5m: load.ok(),
        disk: disk.and_then(Result::ok),
        network: network.ok(),
        boot: boot::read(proc_root),
        openclaw: openclaw.ok(),
        process: health,
        restarts,
    };
    (readings, verdicts)
}

fn traffic(interfaces: &Interfaces, counters: &Counters) -> Verdict {
    let there: Vec<_> = counters.keys().map(String::as_str).collect();
    let failed = |code, message: String| {
        let fix = format!(
            "set {}; there are {}",
            env_vars::NET_INTERFACE,
            if there.is_empty() { "none".to_owned() } else { there.join(", ") }
        );
        Verdict::failed(code, message, fix)
    };
    let missing: Vec<_> = interfaces.missing(counters).collect();
    if !missing.is_empty() {
        return failed("no_interface", format!("there is no {}", missing.join(", ")));
    }
    let counted: Vec<_> = counters
        .iter()
        .filter(|(name, _)| interfaces.counts(name, counters))
        .map(|(name, bytes)| format!("{name} {} in, {} out", bytes.bytes_in, bytes.bytes_out))
        .collect();
    if counted.is_empty() {
        return failed("no_interface", "no interface is counted".to_owned());
    }
    Verdict::passed(format!("bytes so far: {}", counted.join("; ")))
}

fn version(command: &OsStr, version: &Result<openclaw::Version, openclaw::ProbeError>) -> Verdict {
    match version {
        Ok(openclaw::Version { version, commit: Some(commit) }) => {
            Verdict::passed(format!("{version} ({commit})"))
        }
        Ok(openclaw::Version { version, commit: None }) => Verdict::passed(version.clone()),
        Err(error) => Verdict::warned(
            "no_version",
            format!("`{} --version` {error}", command.display()),
            format!("check-ins report null instead; {}", error.hint()),
        ),
    }
}

fn process(usable: &Checked, children: &Children) -> (ProcessHealth, Option<u64>, Verdict) {
    use env_vars::{STATUS_URL, SYSTEMD_UNIT};

    let (result, who) = match (&usable.source, &usable.local) {
        (Some(Source::None), _) => {
            let verdict = Verdict::skipped(format!(
                "neither {STATUS_URL} nor {SYSTEMD_UNIT} is set: right for `run`, which supervises \
                 the process itself"
            ));
            return (ProcessHealth::NotWatched, None, verdict);
        }
        (Some(Source::StatusUrl(source)), Some(client)) => {
            let answer = status_url::ask(source, client, Duration::MAX);
            (
                answer.map_err(|error| of_status_url(&source.url.to_string(), error)),
                "the controller",
            )
        }
        (Some(Source::SystemdUnit(unit)), _) => {
            let answer = unit.clone().ask(children, Duration::MAX).map(|status| StatusResponse {
                restarts: Some(status.restarts),
                status,
                invalid: Vec::new(),
            });
            (answer.map_err(|error| of_systemd(&error)), "systemd")
        }
        (None, _) | (Some(Source::StatusUrl(_)), None) => {
            return (
                ProcessHealth::Unknown,
                None,
                Verdict::skipped_after(CheckName::Configuration),
            );
        }
    };
    match result {
        Ok(StatusResponse { status, restarts, invalid }) => {
            let said = described(who, &status);
            let verdict = if invalid.is_empty() {
                Verdict::passed(said)
            } else {
                let message = format!("{said}; there is no valid {}", invalid.join(", "));
                let fix = "check-ins report `unknown` or 0 instead; check the controller's version";
                Verdict::warned("incomplete_status", message, fix)
            };
            (ProcessHealth::Known(status), restarts, verdict)
        }
        Err(verdict) => (ProcessHealth::Unknown, None, verdict),
    }
}

fn described(who: &str, status: &ProcessStatus) -> String {
    let ProcessStatus { state, restarts, uptime_seconds, .. } = status;
    format!("{who} reports: {state}, up for {uptime_seconds:.0} s, restarts {restarts}")
}

fn of_status_url(url: &str, error: StatusError) -> Verdict {
    use env_vars::{GATEWAY_TOKEN, STATUS_URL};

    let message = format!("{url} {error}");
    let (code, fix) = match error {
        StatusError::NoToken => {
            ("no_gateway_token".to_owned(), format!("set {GATEWAY_TOKEN} to a valid token"))
        }
        StatusError::NoAnswer(no_answer) => {
            let code = no_answer.cause.code().to_owned();
            let hint = explain::hint(&Outcome::Unreachable(no_answer));
            (code, hint.replace(env_vars::CHECKIN_URL, STATUS_URL))
        }
        StatusError::Refused(status) => {
            let status = status.as_u16();
            let fix = match status {
                401 | 403 => format!("check {GATEWAY_TOKEN}: the controller does not accept it"),
                _ => format!("check {STATUS_URL}"),
            };
            (format!("http_{status}"), fix)
        }
        StatusError::Parse(_) => {
            ("not_a_status".to_owned(), format!("check {STATUS_URL}, and the controller's version"))
        }
    };
    Verdict::failed(code, message, format!("check-ins report `unknown` instead; {fix}"))
}

fn of_systemd(error: &SystemdError) -> Verdict {
    let unit = env_vars::SYSTEMD_UNIT;
    let (code, fix) = match error {
        SystemdError::Run(_) => (
            "no_systemd",
            "check that systemd runs here, and that the agent's user can run `systemctl`"
                .to_owned(),
        ),
        SystemdError::NoUnit(_) => (
            "no_unit",
            format!("check {unit}; `systemctl list-units --type=service` lists the units"),
        ),
        SystemdError::Invalid(_) => ("not_a_service", format!("check {unit}")),
    };
    let fix = format!("check-ins report `unknown` instead; {fix}");
    Verdict::failed(code, format!("systemd {error}"), fix)
}

/// Checks that an agent can write its state file. Leaves no file behind.
pub fn state_file(arguments: &StateArguments, sandbox_id: Option<&str>, report: &mut Report) {
    let path = arguments.paths().swap_remove(0);
    report.put(CheckName::StateFile, keep(&path, arguments.state_file.is_none(), sandbox_id));
}

fn keep(path: &Path, makes_directory: bool, sandbox_id: Option<&str>) -> Verdict {
    let shown = path.display();
    let failed = |code, error: &dyn std::fmt::Display, fix: &str| {
        Verdict::failed(code, format!("{shown}: {error}"), fix)
    };
    if let Err(error) = state::check(path, false)
        && error.kind() != ErrorKind::NotFound
    {
        let fix = "name another file, in a directory that only the agent's user can write to";
        return failed("not_writable", &error, fix);
    }
    if let Err(error) = try_place(&place(path, makes_directory)) {
        let fix = format!(
            "run this as the agent's user, or set {} to where that user may write; without it \
             `status` shows nothing, and a restart loses unreported counters",
            env_vars::STATE_FILE
        );
        return failed("not_writable", &error, &fix);
    }
    if let Some(error) = state::unlockable(path) {
        let fix =
            "remove the lock file, or name another state file, in a directory of the agent's user";
        return Verdict::warned("not_locked", error.to_string(), fix);
    }
    match State::load(path) {
        Ok(Some(state)) if sandbox_id.is_some_and(|id| id != state.sandbox_id) => {
            Verdict::passed(format!(
                "{shown} can be written; its counters belong to sandbox {} and are discarded",
                state.sandbox_id
            ))
        }
        Ok(Some(_)) => Verdict::passed(format!("{shown} can be read and written")),
        Ok(None) => Verdict::passed(format!("{shown} can be written")),
        Err(error) => failed(
            "unreadable",
            &error,
            "the agent starts over and loses unreported counters; remove the file if the error remains",
        ),
    }
}

/// The directory in which the agent must be able to create the file or, at the default location, a directory.
fn place(path: &Path, makes_directory: bool) -> PathBuf {
    let mut directory = path.parent().unwrap_or(path);
    while makes_directory && !directory.exists() {
        let Some(parent) = directory.parent() else { break };
        directory = parent;
    }
    let here = directory.as_os_str().is_empty();
    if here { PathBuf::from(".") } else { directory.to_owned() }
}

/// Writes a file and removes it. The file has content, since an empty file fits even on a full disk.
fn try_place(directory: &Path) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&[b' '; STATE_BYTES])?;
    // Some file systems allocate space only here.
    file.as_file().sync_data()?;
    file.close()
}

/// More than the size of a state file.
const STATE_BYTES: usize = 4_096;

#[must_use]
pub fn sandbox_of_state(arguments: &StateArguments) -> Option<String> {
    let states = arguments.paths().into_iter().filter_map(|path| State::load(&path).ok().flatten());
    states.map(|state| state.sandbox_id).next()
}

#[must_use]
pub fn host_name(proc_root: &Path) -> Option<String> {
    let name = fs::read_to_string(proc_root.join("sys/kernel/hostname")).ok()?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_default_directory_passes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/state.json");
        assert_eq!(place(&path, true), root.path());
        assert_eq!(place(&path, false), root.path().join("a/b"));
        assert_eq!(place(Path::new("state.json"), false), Path::new("."));
        assert!(!keep(&path, true, None).is_failed());
        assert!(keep(&path, false, None).is_failed());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_state_file_is_reported_by_its_contents() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state.json");
        State::new("sandbox-1").save(&path).unwrap();
        let found = |verdict| match verdict {
            Verdict::Passed { found } => found,
            other => panic!("{other:?}"),
        };
        assert!(found(keep(&path, false, Some("sandbox-1"))).ends_with("read and written"));
        assert!(found(keep(&path, false, Some("sandbox-2"))).contains("sandbox sandbox-1 and"));
        fs::write(&path, "{").unwrap();
        assert!(keep(&path, false, Some("sandbox-1")).is_failed());
        assert!(keep(root.path(), false, Some("sandbox-1")).is_failed());
    }
}
