//! The readings of a check-in. Each fails alone: a failed reading is missing and causes a warning, and the check-in is
//! still sent.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::process::children::Children;

pub mod boot;
pub mod command;
pub mod disk;
pub mod load;
pub mod network;
pub mod openclaw;
pub mod process;
pub mod status_url;
pub mod systemd;

use openclaw::ProbeError;
use process::{ProcessHealth, ProcessStatus};

/// Timeout for the process's source while the agent stops: a third of the last check-in's time.
const WHILE_ENDING: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Sources {
    /// `/proc`, except in tests.
    pub proc_root: PathBuf,
    /// A path on the file system to report.
    pub disk_path: Option<PathBuf>,
    /// The program that prints `OpenClaw`'s version.
    pub openclaw_command: OsString,
    /// The source of the process's state.
    pub process: Source,
}

/// The source of the process's state.
#[derive(Clone, Debug, Default)]
pub enum Source {
    #[default]
    None,
    /// A controller that supervises the process.
    StatusUrl(status_url::StatusSource),
    /// systemd, which supervises the process.
    SystemdUnit(systemd::Unit),
}

/// `None` is a failed reading.
#[derive(Debug, PartialEq)]
pub struct Readings {
    /// Runnable tasks, averaged over 5 minutes.
    pub load_avg_5m: Option<f64>,
    /// Also `None` without a path to report.
    pub disk: Option<disk::Disk>,
    /// Counters of all network interfaces.
    pub network: Option<network::Counters>,
    /// The [boot] that the counters belong to.
    pub boot: Option<String>,
    pub openclaw: Option<openclaw::Version>,
    pub process: ProcessHealth,
    /// Restarts of the process.
    pub restarts: Option<u64>,
}

/// Takes readings, and keeps caches between them.
#[derive(Debug)]
pub struct Collector {
    sources: Sources,
    disk: Option<disk::DiskReader>,
    children: Children,
    openclaw: openclaw::VersionCache,
}

impl Collector {
    #[must_use]
    pub fn new(sources: Sources, children: Children) -> Self {
        let disk = sources.disk_path.clone().map(disk::DiskReader::new);
        Self { sources, disk, children, openclaw: openclaw::VersionCache::default() }
    }

    /// Takes all readings, and passes each failure to `warn`.
    ///
    /// `process` is the status of a process that the agent itself supervises; without it, its source is read. The
    /// version is read only if its full timeout ends before the `deadline`.
    pub fn collect(
        &mut self,
        client: &Client,
        process: Option<ProcessStatus>,
        now: Instant,
        deadline: Option<Instant>,
        warn: &mut dyn FnMut(&str),
    ) -> Readings {
        let load_avg_5m = load::read(&self.sources.proc_root)
            .map_err(|error| warn(&format!("cannot read the load, reporting 0: {error}")))
            .ok();
        let disk = self.disk.as_mut().and_then(|reader| {
            let path = reader.path().display().to_string();
            reader
                .read()
                .map_err(|error| warn(&format!("cannot read the disk of {path}: {error}")))
                .ok()
        });
        let counted = self.read_counters(client, process, deadline, warn);
        let openclaw = self.version(&counted.process, now, deadline, warn);
        Readings { load_avg_5m, disk, openclaw, ..counted }
    }

    /// Takes only the readings with counters: network and process.
    pub fn read_counters(
        &mut self,
        client: &Client,
        process: Option<ProcessStatus>,
        deadline: Option<Instant>,
        warn: &mut dyn FnMut(&str),
    ) -> Readings {
        let proc_root = &self.sources.proc_root;
        let network = network::read(proc_root)
            .map_err(|error| warn(&format!("cannot read network traffic, reporting 0: {error}")))
            .ok();
        let boot = boot::read(proc_root);
        let (process, restarts) = match process {
            Some(status) => {
                let restarts = status.restarts;
                (ProcessHealth::Known(status), Some(restarts))
            }
            None => self.ask(client, self.patience(deadline), warn),
        };
        Readings { load_avg_5m: None, disk: None, network, boot, openclaw: None, process, restarts }
    }

    /// Timeout for the process's source. The check-in's request needs the same time again, and a stopping agent still
    /// has to send its last check-in.
    fn patience(&self, deadline: Option<Instant>) -> Duration {
        let most = if self.children.are_abandoned() { WHILE_ENDING } else { Duration::MAX };
        (time_left(deadline) / 2).min(most)
    }

    /// Reads the process's source. It may know the status but not the number of restarts.
    fn ask(
        &mut self,
        client: &Client,
        timeout: Duration,
        warn: &mut dyn FnMut(&str),
    ) -> (ProcessHealth, Option<u64>) {
        let answer = match &mut self.sources.process {
            Source::None => return (ProcessHealth::NotWatched, None),
            _ if timeout.is_zero() => Err("there is no time to ask".to_owned()),
            Source::StatusUrl(source) => status_url::ask(source, client, timeout)
                .map(|status_url::StatusResponse { status, restarts, invalid }| {
                    if !invalid.is_empty() {
                        warn(&format!(
                            "{} did not answer with a valid {}, reporting `unknown` or 0 for it",
                            source.url,
                            invalid.join(", ")
                        ));
                    }
                    (status, restarts)
                })
                .map_err(|error| format!("{} {error}", source.url)),
            Source::SystemdUnit(unit) => unit
                .ask(&self.children, timeout)
                .map(|status| {
                    let restarts = status.restarts;
                    (status, Some(restarts))
                })
                .map_err(|error| format!("systemd {error}")),
        };
        match answer {
            Ok((status, restarts)) => (ProcessHealth::Known(status), restarts),
            Err(error) => {
                warn(&format!(
                    "cannot read the state of the process, reporting `unknown`: {error}"
                ));
                (ProcessHealth::Unknown, None)
            }
        }
    }

    fn version(
        &mut self,
        process: &ProcessHealth,
        now: Instant,
        deadline: Option<Instant>,
        warn: &mut dyn FnMut(&str),
    ) -> Option<openclaw::Version> {
        let command = &self.sources.openclaw_command;
        let program = openclaw::identity(command);
        let known =
            self.openclaw.version(program, process, now, || {
                if time_left(deadline) < openclaw::TIMEOUT || self.children.are_abandoned() {
                    return Err(ProbeError::NoTime);
                }
                let found = openclaw::probe(command, &self.children);
                found.map_err(|error| {
                    if self.children.are_abandoned() { ProbeError::NoTime } else { error }
                })
            });
        // `NoTime` only occurs while the agent is stopping, and needs no warning.
        if let Some(error) = known.error.filter(|error| !matches!(error, ProbeError::NoTime)) {
            let instead = known.version.as_ref().map_or("null", |version| &version.version);
            warn(&format!(
                "cannot read OpenClaw's version, reporting {instead}: `{} --version` {error}; {}",
                command.display(),
                error.hint()
            ));
        }
        known.version
    }
}

fn time_left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
}
