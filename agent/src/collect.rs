//! The readings that a check-in is made of. Each fails alone: one that cannot be taken is warned
//! about and absent, and never costs the check-in.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::http::Client;

pub mod load;
pub mod network;
pub mod openclaw;
pub mod supervisor;

/// Where readings come from.
#[derive(Debug)]
pub struct Sources {
    /// Where the kernel's files are: `/proc`, but for tests.
    pub proc_root: PathBuf,
    /// The program that knows `OpenClaw`'s version.
    pub openclaw_command: OsString,
    /// Who knows the state of the supervised process, if anyone does.
    pub status: Option<supervisor::StatusSource>,
}

/// What was read. `None` is a reading that failed.
#[derive(Debug, PartialEq)]
pub struct Readings {
    /// Runnable tasks, averaged over 5 minutes.
    pub load_avg_5m: Option<f64>,
    /// The counters of every network interface.
    pub network: Option<network::Counters>,
    /// The version of `OpenClaw`.
    pub openclaw: Option<openclaw::Version>,
    /// The supervised process.
    pub process: supervisor::ProcessHealth,
}

/// Takes all readings, and hands each failure to `warn`.
pub fn collect(sources: &Sources, client: &Client, warn: &mut dyn FnMut(&str)) -> Readings {
    Readings {
        load_avg_5m: load::read(&sources.proc_root)
            .map_err(|error| warn(&format!("cannot read the load, reporting 0: {error}")))
            .ok(),
        network: network::read(&sources.proc_root)
            .map_err(|error| warn(&format!("cannot read network traffic, reporting 0: {error}")))
            .ok(),
        openclaw: openclaw::probe(&sources.openclaw_command)
            .map_err(|error| {
                let command = sources.openclaw_command.display();
                warn(&format!(
                    "cannot tell OpenClaw's version, reporting null: `{command} --version` {error}"
                ));
            })
            .ok(),
        process: match &sources.status {
            None => supervisor::ProcessHealth::NotWatched,
            Some(source) => match supervisor::ask(source, client) {
                Ok(status) => supervisor::ProcessHealth::Known(status),
                Err(error) => {
                    warn(&format!(
                        "cannot tell the state of the process, reporting `unknown`: {} {error}",
                        source.url
                    ));
                    supervisor::ProcessHealth::Unknown
                }
            },
        },
    }
}
