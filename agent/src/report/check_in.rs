//! Builds a check-in from readings.

use std::borrow::Cow;
use std::time::Duration;

use kiloclaw_check_in::CheckIn;
use kiloclaw_check_in::limits::{MAX_BYTES, MAX_LOAD, MAX_RESTARTS, MAX_UPTIME_SECONDS};

use crate::collect::Readings;
use crate::collect::process::ProcessHealth;
use crate::config::{Config, Target};
use crate::daemon::supervisor::SupervisorState;
use crate::report::ledger::{Ledger, Unreported};
use crate::report::send::{Outcome, send};

/// Adds readings to the ledger, and warns about settings that match nothing.
pub fn observe(
    config: &Config,
    readings: &Readings,
    ledger: &mut Ledger,
    warn: &mut dyn FnMut(&str),
) {
    config.warnings.iter().for_each(|warning| warn(warning));
    for name in readings.network.iter().flat_map(|counters| config.interfaces.missing(counters)) {
        warn(&format!("there is no network interface {name}; counting without it"));
    }
    ledger.observe(readings, &config.interfaces);
}

/// A check-in, and the deltas that it reports.
#[derive(Debug)]
pub struct Attempt<'a> {
    unreported: Unreported,
    pub check_in: CheckIn<'a>,
}

impl<'a> Attempt<'a> {
    /// Builds the check-in. The `last` one reports `shutting_down` whatever the process does, because nothing reports
    /// on the process after it.
    #[must_use]
    pub fn new(config: &'a Config, readings: &'a Readings, ledger: &Ledger, last: bool) -> Self {
        let unreported = ledger.unreported();
        let mut check_in = check_in(config, readings, unreported);
        if last {
            check_in.supervisor_state = text(SupervisorState::ShuttingDown.name());
        }
        Self { unreported, check_in }
    }

    /// Sends `body` within `left`. An acceptance subtracts the reported deltas from the ledger.
    pub fn send(
        &self,
        target: &Target,
        body: &str,
        ledger: &mut Ledger,
        left: Duration,
    ) -> Outcome {
        let outcome = send(target, body, left);
        if matches!(outcome, Outcome::Accepted(_)) {
            ledger.settle(self.unreported);
        }
        outcome
    }
}

/// Builds the contract's body.
///
/// A number above its bound is sent as the bound, since the server would refuse every check-in with a larger one. The
/// contract requires a number for most readings, so a failed reading is 0, with a warning. A failed state is `unknown`.
#[must_use]
pub fn check_in<'a>(
    config: &'a Config,
    readings: &'a Readings,
    unreported: Unreported,
) -> CheckIn<'a> {
    // `openclaw --version` may print a credential, which must not be sent.
    let ours = |text: &str| config.redactor.clean(text) != text;
    let openclaw = readings.openclaw.as_ref().filter(|openclaw| {
        !ours(&openclaw.version) && !openclaw.commit.as_deref().is_some_and(ours)
    });
    let process = match &readings.process {
        ProcessHealth::Known(status) => Some(status),
        ProcessHealth::NotWatched | ProcessHealth::Unknown => None,
    };
    CheckIn {
        sandbox_id: text(&config.sandbox_id),
        machine_id: config.machine_id.as_deref().map(text),
        controller_version: text(&config.controller_version),
        controller_commit: text(&config.controller_commit),
        openclaw_version: openclaw.map(|openclaw| text(&openclaw.version)),
        openclaw_commit: openclaw.and_then(|openclaw| openclaw.commit.as_deref()).map(text),
        supervisor_state: match &readings.process {
            ProcessHealth::Known(status) => text(&status.state),
            ProcessHealth::NotWatched => text("stopped"),
            ProcessHealth::Unknown => text("unknown"),
        },
        total_restarts: process.map_or(0.0, |status| number(status.restarts).min(MAX_RESTARTS)),
        restarts_since_last_checkin: number(unreported.restarts).min(MAX_RESTARTS),
        uptime_seconds: process.map_or(0.0, |status| status.uptime_seconds.min(MAX_UPTIME_SECONDS)),
        load_avg_5m: readings.load_avg_5m.unwrap_or_default().min(MAX_LOAD),
        bandwidth_bytes_in: number(unreported.bytes_in).min(MAX_BYTES),
        bandwidth_bytes_out: number(unreported.bytes_out).min(MAX_BYTES),
        last_exit_reason: match &readings.process {
            ProcessHealth::Known(status) => status.last_exit_reason.as_deref().map(text),
            ProcessHealth::NotWatched => Some(text("")),
            ProcessHealth::Unknown => None,
        },
        disk_used_bytes: readings.disk.map(|disk| number(disk.used).min(MAX_BYTES)),
        disk_total_bytes: readings.disk.map(|disk| number(disk.total).min(MAX_BYTES)),
    }
}

fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// Deltas are exact integers until this conversion.
#[expect(clippy::cast_precision_loss, reason = "the contract's numbers are doubles")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ureq::tls::RootCerts;

    use super::*;
    use crate::collect::disk::Disk;
    use crate::collect::network::{Bytes, Interfaces};
    use crate::collect::process::ProcessStatus;
    use crate::collect::{Source, Sources, openclaw};
    use crate::http::Client;
    use crate::secret::Redactor;

    fn config() -> Config {
        Config {
            sandbox_id: "sandbox-1".to_owned(),
            machine_id: Some("machine-1".to_owned()),
            controller_version: "1.2.3".to_owned(),
            controller_commit: "abcdef".to_owned(),
            interfaces: Interfaces::default(),
            sources: Sources {
                proc_root: "/proc".into(),
                disk_path: None,
                openclaw_command: "openclaw".into(),
                process: Source::None,
            },
            timeout: Duration::from_secs(10),
            local: Client::new(Duration::from_secs(10), RootCerts::WebPki, None),
            redactor: Redactor::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn every_reading_is_in_its_field() {
        let config = config();
        let readings = Readings {
            load_avg_5m: Some(0.07),
            disk: Some(Disk { used: 5, total: 9 }),
            network: Some([("eth0".to_owned(), Bytes { bytes_in: 9, bytes_out: 9 })].into()),
            boot: None,
            openclaw: Some(openclaw::Version {
                version: "2026.3.13".to_owned(),
                commit: Some("def5678".to_owned()),
            }),
            process: ProcessHealth::Known(ProcessStatus {
                state: "running".to_owned(),
                pid: Some(42),
                restarts: 4,
                uptime_seconds: 12.5,
                last_exit_reason: Some("signal:SIGKILL".to_owned()),
            }),
            restarts: Some(4),
        };
        let unreported = Unreported { restarts: 3, bytes_in: 50, bytes_out: 100 };
        let body = serde_json::to_value(check_in(&config, &readings, unreported)).unwrap();
        let expected = serde_json::json!({
            "sandboxId": "sandbox-1",
            "machineId": "machine-1",
            "controllerVersion": "1.2.3",
            "controllerCommit": "abcdef",
            "openclawVersion": "2026.3.13",
            "openclawCommit": "def5678",
            "supervisorState": "running",
            "totalRestarts": 4,
            "restartsSinceLastCheckin": 3,
            "uptimeSeconds": 12.5,
            "loadAvg5m": 0.07,
            "bandwidthBytesIn": 50,
            "bandwidthBytesOut": 100,
            "lastExitReason": "signal:SIGKILL",
            "diskUsedBytes": 5,
            "diskTotalBytes": 9,
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn numbers_out_of_bounds_are_clamped() {
        let config = config();
        let readings = Readings {
            load_avg_5m: Some(1e308),
            disk: Some(Disk { used: u64::MAX, total: u64::MAX }),
            network: None,
            boot: None,
            openclaw: None,
            process: ProcessHealth::Known(ProcessStatus {
                state: "running".to_owned(),
                pid: None,
                restarts: u64::MAX,
                uptime_seconds: 1e300,
                last_exit_reason: None,
            }),
            restarts: Some(u64::MAX),
        };
        let unreported = Unreported { restarts: u64::MAX, bytes_in: u64::MAX, bytes_out: u64::MAX };
        let body = serde_json::to_string(&check_in(&config, &readings, unreported)).unwrap();
        assert!(CheckIn::parse_str(&body).is_ok(), "{body}");
    }

    #[test]
    fn a_check_in_without_any_reading_satisfies_the_contract() {
        let config = config();
        for (process, state, reason) in [
            (ProcessHealth::Unknown, "unknown", None),
            (ProcessHealth::NotWatched, "stopped", Some("")),
        ] {
            let readings = Readings {
                load_avg_5m: None,
                disk: None,
                network: None,
                boot: None,
                openclaw: None,
                process,
                restarts: None,
            };
            let check_in = check_in(&config, &readings, Unreported::default());
            let body = serde_json::to_string(&check_in).unwrap();
            let read = CheckIn::parse_str(&body).unwrap();
            assert_eq!(read.supervisor_state, state);
            assert_eq!(read.last_exit_reason.as_deref(), reason);
            assert_eq!(read.openclaw_version, None);
            assert!(read.load_avg_5m.abs() < f64::EPSILON);
            assert_eq!((read.disk_used_bytes, read.disk_total_bytes), (None, None));
        }
    }
}
