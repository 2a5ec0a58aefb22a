//! The readings that a check-in is made of. Each fails alone: one that cannot be taken is warned
//! about and absent, and never costs the check-in.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::process::children::Children;

pub mod boot;
pub mod command;
pub mod load;
pub mod network;
pub mod openclaw;
pub mod process;
pub mod status_url;
pub mod systemd;

use openclaw::ProbeError;
use process::{ProcessHealth, Status};

/// How long whoever knows the process may take once the agent is ending: a third of what is left.
const WHILE_ENDING: Duration = Duration::from_secs(1);

/// Where readings come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the kernel's files are: `/proc`, but for tests.
    pub proc_root: PathBuf,
    /// The program that knows `OpenClaw`'s version.
    pub openclaw_command: OsString,
    /// Who knows the state of the process.
    pub process: Source,
}

/// Who knows the state of the process.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// Nobody.
    #[default]
    None,
    /// A controller that supervises it.
    StatusUrl(status_url::StatusSource),
    /// systemd, which supervises it.
    SystemdUnit(systemd::Unit),
}

/// What was read. `None` is a reading that failed.
#[derive(Debug, PartialEq)]
pub struct Readings {
    /// Runnable tasks, averaged over 5 minutes.
    pub load_avg_5m: Option<f64>,
    /// The counters of every network interface.
    pub network: Option<network::Counters>,
    /// Which [life](boot) of the kernel's counters these are of.
    pub boot: Option<String>,
    /// The version of `OpenClaw`.
    pub openclaw: Option<openclaw::Version>,
    /// The process.
    pub process: ProcessHealth,
    /// How often the process was restarted, where that is known.
    pub restarts: Option<u64>,
}

/// Takes readings, and keeps what one time needs of the time before.
#[derive(Debug)]
pub struct Collector {
    sources: Sources,
    children: Children,
    openclaw: openclaw::VersionCache,
}

impl Collector {
    /// Takes readings from these sources; what has to be run for them is one of `children`.
    #[must_use]
    pub fn new(sources: Sources, children: Children) -> Self {
        Self { sources, children, openclaw: openclaw::VersionCache::default() }
    }

    /// Takes all readings, and hands each failure to `warn`.
    ///
    /// `process` is the state of the process where the agent supervises it itself; else its source
    /// is asked. With a `deadline`, nothing is waited for beyond it: the version is not asked for
    /// unless all the time that it may take is left.
    pub fn collect(
        &mut self,
        client: &Client,
        process: Option<Status>,
        now: Instant,
        deadline: Option<Instant>,
        warn: &mut dyn FnMut(&str),
    ) -> Readings {
        let load_avg_5m = load::read(&self.sources.proc_root)
            .map_err(|error| warn(&format!("cannot read the load, reporting 0: {error}")))
            .ok();
        let counted = self.look(client, process, deadline, warn);
        let openclaw = self.version(&counted.process, now, deadline, warn);
        Readings { load_avg_5m, openclaw, ..counted }
    }

    /// Takes only those readings that are counted on: network and process.
    pub fn look(
        &mut self,
        client: &Client,
        process: Option<Status>,
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
        Readings { load_avg_5m: None, network, boot, openclaw: None, process, restarts }
    }

    /// How long whoever knows the process may take: as much has to be left for the request, and an
    /// agent that is ending has another check-in to send.
    fn patience(&self, deadline: Option<Instant>) -> Duration {
        let most = if self.children.are_abandoned() { WHILE_ENDING } else { Duration::MAX };
        (time_left(deadline) / 2).min(most)
    }

    /// Asks whoever knows the process; the number of restarts is known or not for itself.
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
                .map(|status_url::Answer { status, restarts, invalid }| {
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
        // Where there is no time to ask, the agent is ending.
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

/// How long it is until a deadline.
fn time_left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
}
