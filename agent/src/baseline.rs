//! The counters of the last accepted check-in, which the next one is measured against.
//!
//! Counters count from a machine's, an interface's or a supervisor's start. The contract wants what
//! happened since the last accepted check-in: what was not accepted is not lost that way, it is in
//! the next one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::collect::Readings;
use crate::collect::network::{self, Counters};
use crate::collect::supervisor::ProcessHealth;

/// Counters as they were at the last accepted check-in; `None` was not known then, or ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    restarts: Option<u64>,
    /// Of every interface, not only of those that count: these may be others next time.
    network: Option<Counters>,
}

/// What went over the network, in bytes. Wide enough for any number of interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received.
    pub bytes_in: u128,
    /// Sent.
    pub bytes_out: u128,
}

/// Why a state file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It holds something else.
    #[error("not a state file: {0}")]
    Parse(#[from] serde_json::Error),
}

impl Baseline {
    /// Reads a state file. One that is not there yet is a baseline that knows nothing.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        match fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a state file, wholly or not at all: a machine may stop at any moment.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // A rename is one step only within a file system, hence the same directory.
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let mut file = NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        // Else the rename may reach the disk before the text does.
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// The restarts since this baseline; 0 if it does not know them.
    #[must_use]
    pub fn restarts_since(&self, restarts: u64) -> u64 {
        self.restarts.map_or(0, |before| since(before, restarts))
    }

    /// The traffic since this baseline of the interfaces that [count](network::counts); 0 if it
    /// knows no network. An interface that it does not know came up later and counts from zero.
    #[must_use]
    pub fn traffic_since(&self, counters: &Counters, asked_for: &[String]) -> Traffic {
        let Some(before) = &self.network else { return Traffic::default() };
        let mut traffic = Traffic::default();
        for (name, now) in counters {
            if network::counts(name, asked_for, counters) {
                let (bytes_in, bytes_out) =
                    before.get(name).map_or((0, 0), |before| (before.bytes_in, before.bytes_out));
                traffic.bytes_in += u128::from(since(bytes_in, now.bytes_in));
                traffic.bytes_out += u128::from(since(bytes_out, now.bytes_out));
            }
        }
        traffic
    }

    /// The baseline after a check-in with these readings was accepted. Readings that failed were
    /// reported as 0, so their counters stay where they were, and the next delta covers both.
    #[must_use]
    pub fn advanced(&self, readings: &Readings) -> Self {
        Self {
            restarts: match &readings.process {
                ProcessHealth::Known(status) => Some(status.restarts),
                ProcessHealth::NotWatched | ProcessHealth::Unknown => self.restarts,
            },
            network: readings.network.clone().or_else(|| self.network.clone()),
        }
    }
}

/// How far a counter went. One that went backwards was reset, and counts from zero.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collect::network::Bytes;
    use crate::collect::supervisor::Status;

    fn counters<const N: usize>(interfaces: [(&str, u64, u64); N]) -> Counters {
        interfaces
            .map(|(name, bytes_in, bytes_out)| (name.to_owned(), Bytes { bytes_in, bytes_out }))
            .into()
    }

    fn readings(network: Option<Counters>, restarts: Option<u64>) -> Readings {
        let status = |restarts| Status {
            state: "running".to_owned(),
            restarts,
            uptime_seconds: 0.0,
            last_exit_reason: String::new(),
        };
        Readings {
            load_avg_5m: None,
            network,
            openclaw: None,
            process: restarts.map_or(ProcessHealth::Unknown, |r| ProcessHealth::Known(status(r))),
        }
    }

    fn traffic(before: &Counters, now: &Counters) -> (u128, u128) {
        let baseline = Baseline { network: Some(before.clone()), restarts: None };
        let Traffic { bytes_in, bytes_out } = baseline.traffic_since(now, &[]);
        (bytes_in, bytes_out)
    }

    #[test]
    fn a_delta_is_exact() {
        let before = counters([("eth0", u64::MAX - 1, 1 << 53)]);
        let now = counters([("eth0", u64::MAX, (1 << 53) + 1)]);
        assert_eq!(traffic(&before, &now), (1, 1));
    }

    #[test]
    fn a_counter_that_went_backwards_counts_from_zero() {
        let before = counters([("eth0", 1000, 10)]);
        let now = counters([("eth0", 7, 30)]);
        assert_eq!(traffic(&before, &now), (7, 20));
        assert_eq!(Baseline { restarts: Some(5), network: None }.restarts_since(2), 2);
        assert_eq!(Baseline { restarts: Some(5), network: None }.restarts_since(8), 3);
    }

    #[test]
    fn without_a_baseline_nothing_is_claimed() {
        let now = counters([("eth0", 1000, 2000)]);
        assert_eq!(Baseline::default().traffic_since(&now, &[]), Traffic::default());
        assert_eq!(Baseline::default().restarts_since(7), 0);
    }

    #[test]
    fn interfaces_come_and_go_without_disturbing_others() {
        let before = counters([("ens5", 100, 100), ("lo", 5, 5), ("wg0", 900, 900)]);
        let now = counters([("ens5", 110, 101), ("lo", 50, 50), ("tun0", 3, 4)]);
        assert_eq!(traffic(&before, &now), (13, 5));
    }

    #[test]
    fn another_choice_of_interfaces_is_measured_against_its_own_counters() {
        let before = counters([("eth0", 100, 100), ("wg0", 900, 900)]);
        let now = counters([("eth0", 200, 200), ("wg0", 901, 902)]);
        let baseline = Baseline { network: Some(before), restarts: None };
        assert_eq!(
            baseline.traffic_since(&now, &["wg0".to_owned()]),
            Traffic { bytes_in: 1, bytes_out: 2 }
        );
    }

    #[test]
    fn many_full_counters_do_not_overflow() {
        let now = counters([("a", u64::MAX, 0), ("b", u64::MAX, 0)]);
        assert_eq!(traffic(&Counters::new(), &now), (2 * u128::from(u64::MAX), 0));
    }

    #[test]
    fn only_readings_that_were_taken_advance() {
        let old = Baseline { restarts: Some(1), network: Some(counters([("eth0", 1, 1)])) };
        let later = counters([("eth0", 2, 2)]);
        assert_eq!(old.advanced(&readings(None, None)), old);
        assert_eq!(
            old.advanced(&readings(Some(later.clone()), None)),
            Baseline { restarts: Some(1), network: Some(later) }
        );
        assert_eq!(
            old.advanced(&readings(None, Some(0))),
            Baseline { restarts: Some(0), network: old.network.clone() }
        );
    }

    #[test]
    fn a_state_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(Baseline::load(&path).unwrap(), Baseline::default());
        for restarts in [Some(u64::MAX), None] {
            let baseline = Baseline { restarts, network: Some(counters([("eth0", 1, u64::MAX)])) };
            baseline.save(&path).unwrap();
            assert_eq!(Baseline::load(&path).unwrap(), baseline);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_state_file_that_cannot_be_written_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Baseline::default().save(&directory.path().join("missing/state.json")).is_err());
        // A directory cannot be replaced by a file.
        assert!(Baseline::default().save(directory.path()).is_err());
    }

    #[test]
    fn a_corrupt_state_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for text in ["", "{", "[1]", r#"{"restarts":-1}"#, r#"{"network":{"eth0":{}}}"#] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Baseline::load(&path), Err(LoadError::Parse(_))), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_delta_never_exceeds_the_counter(before: u64, now: u64) {
            prop_assert!(since(before, now) <= now);
        }

        #[test]
        fn deltas_add_up_while_a_counter_grows(start: u32, first: u32, second: u32) {
            let (start, first, second) = (u64::from(start), u64::from(first), u64::from(second));
            let (middle, end) = (start + first, start + first + second);
            prop_assert_eq!(since(start, middle) + since(middle, end), since(start, end));
        }
    }
}
